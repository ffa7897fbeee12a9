"""What was on in a run: measured from its ledgers and from what its bench saw, never read back from a configuration.

A protection is ``on`` where something shows it was, ``off`` where something shows it was not, and ``not measured``
where nothing shows either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from securefl import merkle, wire
from securefl.audit import figures, folder, json_files, spent
from securefl.audit.ledger_files import Ledger, read_all
from securefl.audit.verify import check
from securefl.errors import Tampered
from securefl.protection.schemes import spec_of
from securefl.terms import (
    DistributedDiscreteGaussian,
    FullBatchGaussian,
    Hash,
    Level,
    MemberId,
    MessageSent,
    Participant,
    Plan,
    Reported,
    Reserved,
    RunId,
    RunJoined,
    Scheme,
    Settled,
    SumOpened,
    Unit,
)

MEASURED = "measured.jsonl"
COORDINATES = "coordinator"
FULL_SEED = 256  # bits


class State(StrEnum):
    """Whether a protection was on."""

    ON = "on"
    OFF = "off"
    UNKNOWN = "not measured"


@dataclass(frozen=True, slots=True)
class Line:
    """One protection, and what shows it."""

    name: str
    state: State
    shown: str


@dataclass(frozen=True, slots=True)
class Explained:
    """What was on in one run."""

    run: str
    federation: str
    lines: tuple[Line, ...]
    opens: tuple[tuple[str, str], ...]  # who, and what they can open
    breached: bool  # something was seen that a protection which was asked for does not allow

    def plain(self) -> dict[str, Any]:
        """The same, for JSON."""
        return {
            "run": self.run,
            "federation": self.federation,
            "ok": not self.breached,
            "protections": [{**asdict(line), "state": line.state.value} for line in self.lines],
            "opens": [{"who": who, "what": what} for who, what in self.opens],
        }


@dataclass(frozen=True, slots=True)
class Facts:
    """All there is to go by."""

    run: RunId
    opened: RunJoined  # by the coordinator
    plans: Mapping[Hash, Plan]  # reserved in this run, by hash
    settled: Sequence[tuple[str, Settled]]
    sent: Sequence[tuple[str, str, bytes | None, str]]  # by peers: sender, kind, plan, digest of the body
    ledgers: Mapping[str, bool | None]  # by file: whether a record's text was seen in it; None if nobody looked
    sums: Sequence[SumOpened]  # by whoever opened one
    seen: Sequence[Mapping[str, Any]]  # by the bench, if what it wrote is what the coordinator wrote down
    unsigned: Sequence[str]  # parties whose own record shows no signatures for the policy
    accounts: Sequence[Mapping[str, Any]]
    open_arm: bool | None  # whether the bench trained without privacy too; None if no bound report says

    @property
    def schemes(self) -> set[Scheme]:
        """How updates were hidden; empty if nobody reserved a plan."""
        return {plan.cover.scheme for plan in self.plans.values()}


def explain(run: Path, checked: Mapping[MemberId, Ledger] | None = None) -> Explained:
    """Return what was on in the run in this folder.

    Args:
        run: the folder.
        checked: ledgers that stand elsewhere and were held against each other; None: those in the folder.

    Raises:
        Tampered: its ledgers do not verify, or it has none.
    """
    facts = _facts(run, checked)
    lines = (
        _policy(facts), _records(facts), _updates(facts), _cohort(facts), _threshold(facts), _keys(facts),
        _noise(facts), _sampling(facts), _epsilon(facts), _generator(facts), *_open_arm(facts),
    )  # fmt: skip
    by_name = {line.name: line.state for line in lines}
    hidden = bool(facts.schemes) and all(scheme.hides for scheme in facts.schemes)
    asked_for = ("records", "epsilon", *(("updates",) if hidden else ()))
    breached = any(by_name[name] is State.OFF for name in asked_for)
    return Explained(facts.run.hex(), facts.opened.federation, lines, _opens(facts), breached)


def table(told: Explained) -> str:
    """Return what a person reads."""
    rows = [f"{line.name:<12}{line.state.upper():<14}{line.shown}" for line in told.lines]
    who = [f"  {who:<42}{what}" for who, what in told.opens]
    return "\n".join([f"run {told.run[:12]} of {told.federation}", *rows, "who can open what:", *who])


def _facts(run: Path, checked: Mapping[MemberId, Ledger] | None) -> Facts:
    ledgers = read_all(run) if checked is None else checked
    if checked is None:
        check(ledgers, folder.wanted(run))
    name = folder.named(run) or _last(ledgers)
    coordinator = figures.coordinator_of(ledgers, name)
    opened = coordinator.opened(name)
    assert opened is not None, "its coordinator opened it"
    peers = [ledger for ledger in ledgers.values() if ledger is not coordinator and ledger.opened(name)]
    plans = {
        wire.plan_hash(entry.plan): entry.plan
        for ledger in peers for _, entry in ledger.each(Reserved) if entry.plan.run == name
    }  # fmt: skip
    if checked is None:
        folder.check_latest(ledgers, folder.named(run))
    seen = tuple(_seen(run / MEASURED))
    if not _is_bound(run, coordinator, MEASURED):  # what somebody wrote since can take a protection away, and give none
        seen = tuple(fact for fact in seen if fact.get("records") is True or fact.get("readable") is True)
    return Facts(
        name, opened, plans,
        [(str(ledger.owner), e) for ledger in peers for _, e in ledger.each(Settled) if e.plan in plans],
        [
            (str(ledger.owner), e.receipt.kind, e.receipt.plan, e.receipt.digest.hex())
            for ledger in peers for _, e in ledger.each(MessageSent) if e.receipt.run == name
        ],
        {ledger.name: _looked(ledger, seen) for ledger in ledgers.values()},
        [entry for _, entry in coordinator.each(SumOpened) if entry.run == name],
        seen, [str(each.owner) for each in (coordinator, *peers) if not _signed(each, name)],
        spent.accounts_of(ledgers), _opened(run, coordinator),
    )  # fmt: skip


def _last(ledgers: Mapping[MemberId, Ledger]) -> RunId:
    """Of ledgers alone, the run that began last."""
    opened = (entry for each in ledgers.values() for _, entry in each.each(RunJoined) if entry.role == COORDINATES)
    *_, last = opened
    return last.run


def _is_bound(run: Path, coordinator: Ledger, name: str) -> bool:
    """Return whether a file of the bench is the one that this run's coordinator wrote down when the run ended.

    A federation below names no run: its coordinator's last word is on the run of the one above all. Two words on one
    run say nothing.
    """
    own = folder.named(run)
    said = [entry for _, entry in coordinator.each(Reported) if own in (None, entry.run)]
    said = [entry for entry in said if entry.run == said[-1].run]
    if len(said) != 1 or not (run / name).is_file():
        return False
    digest = hashlib.sha256((run / name).read_bytes()).digest()
    return any((each.path, each.digest) == (name, digest) for each in said[-1].files)


def _opened(run: Path, coordinator: Ledger) -> bool | None:
    """Whether the report says that the bench trained without privacy too; None of one that anybody may have written."""
    try:
        told = json_files.mapping(run / folder.REPORT)["accuracy"]["without_privacy"] is not None
    except (Tampered, KeyError, TypeError):
        return None
    return True if told else False if _is_bound(run, coordinator, folder.REPORT) else None


def _looked(ledger: Ledger, seen: Sequence[Mapping[str, Any]]) -> bool | None:
    """Whether text of a record was seen in this ledger, by who looked at all of it but the last word on the run."""
    for fact in seen:
        size = fact.get("size")
        if (fact.get("what"), fact.get("name")) != ("ledger", ledger.name) or not isinstance(size, int):
            continue
        rest = ledger.leaves[size:]
        whole = 0 < size <= len(ledger.hashes) and all(isinstance(leaf.entry, Reported) for leaf in rest)
        if whole and merkle.root(ledger.hashes[:size]).hex() == fact.get("root"):
            return bool(fact.get("records"))
    return None


def _signed(ledger: Ledger, run: RunId) -> bool:
    """Return whether this party's own record of the run's beginning shows signatures; `check` found that they hold."""
    opened = ledger.opened(run)
    return opened is not None and bool(opened.approvals)


def _seen(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what the bench wrote down; a line that was cut short says nothing."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            fact = json_files.loads(line.encode())
        except ValueError:
            continue
        if isinstance(fact, dict):
            yield fact


def _policy(facts: Facts) -> Line:
    if not facts.unsigned:
        return Line("policy", State.ON, "signed; every party's own record shows signatures that held when it began")
    return Line("policy", State.OFF, f"unsigned, by the record of {', '.join(facts.unsigned)}")


def _records(facts: Facts) -> Line:
    looked = {fact.get("digest"): fact.get("records") for fact in facts.seen if fact.get("what") == "message"}
    left = [(f"{kind} of {sender}", looked.get(digest)) for sender, kind, _, digest in facts.sent]
    left += facts.ledgers.items()
    found = sorted({name for name, seen in left if seen is True})
    if found:
        return Line("records", State.OFF, f"text of a record left in: {', '.join(found)}")
    missing = [name for name, seen in left if seen is not False]
    what = f"{len(facts.sent)} messages and {len(facts.ledgers)} ledgers"
    if missing or not facts.sent:
        return Line("records", State.UNKNOWN, f"{len(missing)} of {what} were not looked at")
    return Line("records", State.ON, f"no 16 bytes of any record in {what}")


def _updates(facts: Facts) -> Line:
    if not facts.schemes:
        return Line("updates", State.UNKNOWN, "no plan was reserved")
    name = " and ".join(sorted(facts.schemes))
    results = {(sender, plan.hex()) for sender, kind, plan, _ in facts.sent if kind == "Submitted" and plan is not None}
    looked = {
        (fact.get("member"), fact.get("plan")): fact.get("readable")
        for fact in facts.seen if fact.get("what") == "result"
    }  # fmt: skip
    read = sorted({member for member, plan in results if looked.get((member, plan)) is True})
    if read or not all(scheme.hides for scheme in facts.schemes):
        return Line(
            "updates", State.OFF, f"{name}: read as they are: {', '.join(read) if read else 'whoever sent one'}"
        )
    missing = [each for each in results if looked.get(each) is not False]
    if missing or not results:
        done = len(results) - len(missing)
        return Line("updates", State.UNKNOWN, f"{name}: {done} of {len(results)} sealed results were looked at")
    return Line("updates", State.ON, f"{name}: no update can be read in {len(results)} sealed results")


def _cohort(facts: Facts) -> Line:
    if not facts.sums:
        return Line("cohort", State.UNKNOWN, "no sum was opened")
    least = min(plan.cover.min_cohort for plan in facts.plans.values())
    colluding = max(plan.cover.colluding for plan in facts.plans.values())
    sizes = [len(each.survivors) for each in sorted(facts.sums, key=lambda each: each.round)]
    kept = min(sizes) >= least and least - colluding > 1
    shown = f"sums over {', '.join(map(str, sizes))}; at least {least} asked for, {colluding} colluding"
    return Line("cohort", State.ON if kept else State.OFF, shown)


def _threshold(facts: Facts) -> Line:
    if not facts.schemes:
        return Line("threshold", State.UNKNOWN, "no plan was reserved")
    if not all(scheme.has_masks for scheme in facts.schemes):
        return Line("threshold", State.OFF, "no secret is shared")
    holders = len(_members(facts))
    covers = {(plan.cover.threshold, plan.cover.colluding) for plan in facts.plans.values()}
    safe = all(2 * threshold > holders + colluding for threshold, colluding in covers)
    shown = "; ".join(
        f"{threshold} of {holders} shares, {colluding} colluding" for threshold, colluding in sorted(covers)
    )
    return Line("threshold", State.ON if safe else State.OFF, shown)


def _members(facts: Facts) -> list[Participant]:
    """Return who sent keys or results: those who hold shares."""
    spoke = {sender for sender, kind, _, _ in facts.sent if kind in ("Enrolled", "Submitted")}
    return [seat for seat in facts.opened.peers if seat.member in spoke]


def _custodians(facts: Facts) -> set[bytes]:
    return {bytes(plan.cover.custodian) for plan in facts.plans.values() if plan.cover.custodian is not None}


def _keys(facts: Facts) -> Line:
    if not facts.schemes:
        return Line("key holders", State.UNKNOWN, "no plan was reserved")
    if not all(scheme.hides for scheme in facts.schemes):
        return Line("key holders", State.OFF, "none is needed: updates are in the clear")
    if not any(scheme.has_custodian for scheme in facts.schemes):
        return Line("key holders", State.ON, "0 hold a key that opens an update")
    return Line("key holders", State.ON, f"{len(_custodians(facts))} hold the decryption key")


def _noise(facts: Facts) -> Line:
    sizes, times = set(), 0
    for _, each in facts.settled:
        event = each.did
        if not isinstance(event, DistributedDiscreteGaussian):
            clip = facts.plans[each.plan].learning.clip_l2
            sizes.add(f"{float(event.noise_multiplier):g} x {float(clip):g} = {float(event.noise_multiplier * clip):g}")
            times += event.steps
        else:
            sizes.add(f"{float(event.deviation / (1 << event.fraction_bits)):g}, discrete, on every result")
            times += 1
    if not sizes:
        return Line("noise", State.UNKNOWN, "nothing was trained")
    what = "steps" if all(each.did.unit is Unit.RECORD for _, each in facts.settled) else "results"
    return Line("noise", State.ON, f"deviation {', '.join(sorted(sizes))} in each of {times} {what}, members together")


def _sampling(facts: Facts) -> Line:
    if not facts.settled:
        return Line("sampling", State.UNKNOWN, "nothing was trained")
    full = sum(isinstance(each.did, FullBatchGaussian) for _, each in facts.settled)
    if full == len(facts.settled):
        return Line("sampling", State.OFF, "every record is in every step, and the price is that of no sampling")
    rates = {str(each.did.sampling_rate) for _, each in facts.settled}
    shown = f"poisson, each record with chance {', '.join(sorted(rates))} a step"
    paid = all(each.did.unit is Unit.RECORD for _, each in facts.settled)
    return Line("sampling", State.ON, shown if paid else f"{shown}; no part of the price, which is a whole update's")


def _epsilon(facts: Facts) -> Line:
    rows = [row for row in facts.accounts if row["level"] == Level.DATASET.value]
    if not rows:
        return Line("epsilon", State.UNKNOWN, "no account")
    worst = max(rows, key=lambda row: (row["spent"] + row["reserved"] > row["limit"], row["spent"] + row["reserved"]))
    spent = worst["spent"] + worst["reserved"]
    shown = (
        f"{spent:.4f} of {worst['limit']:g} at delta {worst['delta']:g}, at {worst['member']}, all its runs together"
    )
    return Line("epsilon", State.ON if spent <= worst["limit"] else State.OFF, shown)


def _generator(facts: Facts) -> Line:
    seeds = [fact for fact in facts.seen if fact.get("what") == "seed"]
    if not seeds:
        return Line("generator", State.UNKNOWN, "seeds were drawn where the bench could not look")
    bits = min(int(fact.get("bits", 0)) for fact in seeds)
    sources = sorted({str(fact.get("source")) for fact in seeds})
    strong = bits >= FULL_SEED and sources == ["os.urandom"]
    shown = f"AES-256-CTR; seeds from {' and '.join(sources)}, {bits} bits at the least"
    return Line("generator", State.ON if strong else State.OFF, shown)


def _open_arm(facts: Facts) -> tuple[Line, ...]:
    if facts.open_arm is None:
        what = "no report that was bound when the run ended says whether the bench also trained without privacy"
        return (Line("open arm", State.UNKNOWN, what),)
    if not facts.open_arm:
        return ()
    return (
        Line("open arm", State.OFF, "the bench also trained with no noise and no clipping, to compare; not released"),
    )


def _opens(facts: Facts) -> tuple[tuple[str, str], ...]:
    """Return who can open what, alone or together, beyond what everybody gets: the sums and what was released."""
    least = min((plan.cover.threshold for plan in facts.plans.values()), default=0)
    told = (row for scheme in Scheme if scheme in facts.schemes for row in spec_of(scheme).powers(least))
    return tuple(dict.fromkeys(told))
