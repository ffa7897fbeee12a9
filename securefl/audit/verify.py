"""Is it true? Offline, from a copy of a run's folder alone, trusting nobody.

Checks, in this order; the first that fails names the ledger and the entry:

1. the folder holds ledgers, and nothing else, each named by its owner, and that of everybody a ledger here has seen;
2. every file and every leaf is the canonical encoding of what it should be;
3. the head is signed by the ledger's key and covers exactly the leaves;
4. every receipt is signed by its sender, under the key that all ledgers give it;
5. what one party got from another, the other has sent; every party records the same release for the same round;
6. every head one party has seen of another is a prefix of that other's ledger: an older, cut or forked one is found;
7. the account: no plan twice, no settlement above its reservation, nothing freed that left; every price is what two
   accountants say, and every limit of the policy held when it was reserved;
8. a run that is closed is closed everywhere it was joined, and where it finished no reservation is left open.

Any error while checking means: not verified.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from securefl import keys, wire
from securefl.errors import Fault, Tampered
from securefl.ledger import export, merkle
from securefl.privacy import accountant
from securefl.privacy.account import Account, AccountFault, Standing
from securefl.terms import (
    Closed,
    Freed,
    Got,
    Hash,
    Leaf,
    Level,
    MemberId,
    MicroEpsilon,
    Opened,
    PublicKey,
    Receipt,
    Released,
    Reserved,
    RunId,
    Sent,
    Witnessed,
    micro_epsilon,
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found."""

    ok: bool
    entries: int
    first_bad: dict[str, Any] | None
    why: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """One party's ledger, read."""

    owner: MemberId
    key: PublicKey
    leaves: tuple[Leaf, ...]
    hashes: tuple[Hash, ...]

    def each(self, kind: type) -> Iterator[tuple[int, Any]]:
        """The entries of one kind, with their places."""
        for index, leaf in enumerate(self.leaves):
            if isinstance(leaf.entry, kind):
                yield index, leaf.entry


def verify(run: Path) -> Verdict:
    """Whether everything in ``run``'s ledgers holds together; never raises."""
    try:
        ledgers = read_all(run)
        check(ledgers)
    except Tampered as fault:
        return Verdict(False, 0, {"ledger": fault.where, "entry": fault.entry}, str(fault))
    except Exception as fault:  # fail closed: what cannot be checked is not verified
        return Verdict(False, 0, None, f"{type(fault).__name__}: {fault}")
    return Verdict(True, sum(len(ledger.leaves) for ledger in ledgers.values()), None, "")


def read_all(run: Path) -> Mapping[MemberId, Ledger]:
    """Checks 1 to 3.

    Raises:
        Tampered: one of them fails.
    """
    folder = run / "ledger" if (run / "ledger").is_dir() else run
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if not files:
        raise Tampered(str(folder), "no ledgers here")
    ledgers: dict[MemberId, Ledger] = {}
    for path in files:
        if path.suffix != export.SUFFIX or not path.is_file():
            raise Tampered(path.name, "not a ledger, and it stands among them")
        ledger = read_one(path)
        ledgers[ledger.owner] = ledger
    return ledgers


def read_one(path: Path) -> Ledger:
    """One ledger, by itself: checks 2 and 3.

    Raises:
        Tampered: one of them fails.
    """
    file = export.read(path)
    where = path.name
    if path.stem != file.owner or file.head.head.owner != file.owner:
        raise Tampered(where, f"the ledger of {file.owner}, with the head of {file.head.head.owner}")
    hashes = tuple(merkle.leaf_hash(data) for data in file.leaves)
    try:
        keys.verify(file.key, "head", wire.encode(file.head.head), file.head.signature)
    except Fault as fault:
        raise Tampered(where, f"the head's signature does not hold: {fault}") from fault
    leaves = export.leaves_of(file, where)
    head = file.head.head
    if (head.size, head.root) != (len(hashes), merkle.root(hashes)):
        raise Tampered(where, f"{len(hashes)} entries do not give the root its owner signed over {head.size}")
    return Ledger(file.owner, file.key, leaves, hashes)


def check(ledgers: Mapping[MemberId, Ledger]) -> None:
    """Checks 4 to 8.

    Raises:
        Tampered: one of them fails.
    """
    _complete(ledgers)
    for ledger in ledgers.values():
        _keys_agree(ledger, ledgers)
        _receipts(ledger, ledgers)
        _witnesses(ledger, ledgers)
        _account(ledger)
    _releases(ledgers)
    _endings(ledgers)


def _complete(ledgers: Mapping[MemberId, Ledger]) -> None:
    for ledger in ledgers.values():
        for index, entry in ledger.each(Witnessed):
            if entry.head.head.owner not in ledgers:
                raise Tampered(f"{ledger.owner}.ledger", f"it has seen a ledger of {entry.head.head.owner}, which is missing", index)


def _keys_agree(ledger: Ledger, ledgers: Mapping[MemberId, Ledger]) -> None:
    for index, opened in ledger.each(Opened):
        for seat in opened.peers:
            if seat.member in ledgers and ledgers[seat.member].key != seat.key:
                raise Tampered(f"{ledger.owner}.ledger", f"another key for {seat.member} than its own ledger has", index)


def _receipts(ledger: Ledger, ledgers: Mapping[MemberId, Ledger]) -> None:
    where = f"{ledger.owner}.ledger"
    known: dict[RunId, dict[MemberId, PublicKey]] = {}
    sent: dict[MemberId, set[bytes]] = {
        owner: {wire.encode(entry.receipt) for _, entry in other.each(Sent)} for owner, other in ledgers.items()
    }
    for index, leaf in enumerate(ledger.leaves):
        entry = leaf.entry
        if isinstance(entry, Opened):
            known[entry.run] = {seat.member: seat.key for seat in entry.peers}
        elif isinstance(entry, Sent):
            if entry.receipt.sender != ledger.owner:
                raise Tampered(where, f"a receipt of {entry.receipt.sender} as if it were its own", index)
            _signed(entry.receipt, entry.signature, ledger.key, where, index)
        elif isinstance(entry, Got):
            sender = entry.receipt.sender
            key = known.get(entry.receipt.run, {}).get(sender)
            if key is None or entry.receipt.to != ledger.owner:
                raise Tampered(where, f"a receipt of {sender}, who is no peer of that run, or not for this party", index)
            _signed(entry.receipt, entry.signature, key, where, index)
            if sender in ledgers and wire.encode(entry.receipt) not in sent[sender]:
                raise Tampered(where, f"got what {sender}'s ledger never sent", index)


def _signed(receipt: Receipt, signature: bytes, key: PublicKey, where: str, index: int) -> None:
    try:
        keys.verify(key, "receipt", wire.encode(receipt), signature)
    except Fault as fault:
        raise Tampered(where, f"the receipt for a {receipt.kind}: {fault}", index) from fault


def _witnesses(ledger: Ledger, ledgers: Mapping[MemberId, Ledger]) -> None:
    where = f"{ledger.owner}.ledger"
    for index, entry in ledger.each(Witnessed):
        head, signature = entry.head.head, entry.head.signature
        other = ledgers[head.owner]
        try:
            keys.verify(other.key, "head", wire.encode(head), signature)
        except Fault as fault:
            raise Tampered(where, f"the head of {head.owner}: {fault}", index) from fault
        if head.size > len(other.hashes):
            what = f"{len(other.hashes)} entries, and {ledger.owner} has seen {head.size}"
            raise Tampered(f"{head.owner}.ledger", what, len(other.hashes))
        if merkle.root(other.hashes[: head.size]) != head.root:
            raise Tampered(f"{head.owner}.ledger", f"its first {head.size} entries are not those {ledger.owner} has seen")


def _account(ledger: Ledger) -> None:
    from securefl.policy import load as policies  # noqa: PLC0415

    where = f"{ledger.owner}.ledger"
    account = Account()
    policy_of: dict[RunId, policies.Policy] = {}
    submitted: set[Hash] = set()
    for index, leaf in enumerate(ledger.leaves):
        entry = leaf.entry
        if isinstance(entry, Opened):
            policy_of[entry.run] = policies.parse(entry.policy, f"{where}, entry {index}")
        if isinstance(entry, Sent) and entry.receipt.kind == "Submitted" and entry.receipt.plan is not None:
            submitted.add(entry.receipt.plan)
            if not _settled(account, entry.receipt.plan, entry.receipt.cost):
                raise Tampered(where, "a result left that was not settled at the price its receipt names", index)
        if isinstance(entry, Freed) and entry.plan in submitted:
            raise Tampered(where, "a reservation was freed whose result had left", index)
        if isinstance(entry, Reserved):
            _price(entry, account, policy_of, where, index)
        try:
            account = account.apply(entry)
        except AccountFault as fault:
            raise Tampered(where, str(fault), index) from fault


def _settled(account: Account, plan: Hash, cost: MicroEpsilon) -> bool:
    return any(c.plan == plan and c.standing is Standing.SETTLED and c.cost == cost for c in account.charges)


def _price(entry: Reserved, account: Account, policy_of: Mapping[RunId, Any], where: str, index: int) -> None:
    policy = policy_of.get(entry.plan.run)
    if policy is None or policy.hash != entry.plan.policy:
        raise Tampered(where, "reserved under a policy that this ledger does not hold", index)
    budget = policy.budget
    delta = float(budget.delta)
    expected = accountant.price(entry.plan, account, entry.dataset, delta)
    if (entry.price.plan, entry.price.account) != (expected.plan, expected.account):
        raise Tampered(where, "a price of another plan or another account", index)
    limits = {Level.DATASET: budget.per_dataset.epsilon, Level.FEDERATION: budget.epsilon}
    costs = [("round", entry.price.round, expected.round, budget.per_round.epsilon)]
    costs += [(level.value, entry.price.after.get(level, -1), expected.after[level], limits[level]) for level in limits]
    for name, told, due, limit in costs:
        if abs(told - due) > 1:  # one millionth: another machine's last digit
            raise Tampered(where, f"the price of the {name} is {told / 1e6}; its events cost {due / 1e6}", index)
        if told * budget.overlap > limit * 1_000_000:
            raise Tampered(where, f"the {name} costs {told / 1e6}, above the limit of {float(limit)}", index)
    events = (*account.events(Level.DATASET, entry.dataset), entry.plan.learning.event)
    if micro_epsilon(accountant.epsilon_rdp(events, delta)) + 1 < expected.after[Level.DATASET]:
        raise Tampered(where, "the two accountants contradict each other", index)


def _releases(ledgers: Mapping[MemberId, Ledger]) -> None:
    seen: dict[tuple[RunId, int], tuple[Hash, MemberId]] = {}
    for ledger in ledgers.values():
        for index, entry in ledger.each(Released):
            digest, first = seen.setdefault((entry.run, entry.round), (entry.digest, ledger.owner))
            if digest != entry.digest:
                raise Tampered(f"{ledger.owner}.ledger", f"another release of round {entry.round} than {first} has", index)


def _endings(ledgers: Mapping[MemberId, Ledger]) -> None:
    for ledger in ledgers.values():
        opened = {entry.run: (index, entry) for index, entry in ledger.each(Opened)}
        closed = {entry.run: entry for _, entry in ledger.each(Closed)}
        for run, (index, entry) in opened.items():
            coordinator = next((s.member for s in entry.peers if _role(ledgers, s.member, run) == "coordinator"), None)
            above = ledgers[coordinator] if coordinator else None
            if entry.role == "member" and above is not None:
                told = {e.run: e for _, e in above.each(Closed)}
                if run in closed and run not in told:
                    raise Tampered(f"{coordinator}.ledger", f"the run that {ledger.owner} saw close is not closed")
                said_bye = any(e.receipt.kind == "Bye" and e.receipt.run == run and e.receipt.sender == ledger.owner
                               for _, e in above.each(Got))  # fmt: skip
                if said_bye and run not in closed:
                    raise Tampered(f"{ledger.owner}.ledger", "it said goodbye, and its ledger does not end the run")
                if run in closed and run in told and closed[run].outcome != told[run].outcome:
                    raise Tampered(f"{ledger.owner}.ledger", "it ended otherwise than the coordinator's", index)
            if run in closed and closed[run].outcome == "finished" and entry.role == "member":
                account = Account.of(leaf.entry for leaf in ledger.leaves)
                if any(c.run == run and c.standing is Standing.RESERVED for c in account.charges):
                    raise Tampered(f"{ledger.owner}.ledger", "a finished run left a reservation open", index)


def _role(ledgers: Mapping[MemberId, Ledger], member: MemberId, run: RunId) -> str:
    if member not in ledgers:
        return ""
    return next((entry.role for _, entry in ledgers[member].each(Opened) if entry.run == run), "")
