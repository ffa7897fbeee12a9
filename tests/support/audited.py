"""Whole federations' ledgers, written entry by entry with real keys, prices and decisions; and parties who lie in theirs.

A lie is told when the entry is written, so heads, witnesses and signatures fit it: what is left to find it is the audit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path

from securefl import keys, merkle, wire
from securefl.audit import adapter_files, coordinated, figures, folder
from securefl.audit.ledger_files import read_all
from securefl.ledger import export, heads
from securefl.policy import load as policies
from securefl.policy.decide import decide
from securefl.privacy.account import Account
from securefl.privacy.accountant import price
from securefl.protection import masking_terms
from securefl.protocol import messages as m
from securefl.terms import (
    Adapter,
    Closed,
    Entry,
    FixedPoint,
    Grant,
    Hash,
    Head,
    Leaf,
    Learning,
    Level,
    MemberId,
    MessageReceived,
    MessageSent,
    MicroEpsilon,
    Model,
    Participant,
    Plan,
    PoissonGaussian,
    Price,
    ProtectionSpec,
    Receipt,
    Released,
    Reserved,
    RunId,
    RunJoined,
    Scheme,
    Settled,
    SignedHead,
    SignedReceipt,
    SumOpened,
    Task,
    Witnessed,
)
from tests.support import saved_adapter

MEMBERS = ("north", "south", "east", "west")
EVENT = PoissonGaussian(Fraction(1, 20), Fraction(1), 5)
ARMS = ("broadcast", "local_only", "without_privacy")
NOW = 1_790_000_000  # in 2026
POLICY = """\
securefl_policy: 1
federation: harbour
version: 1
valid: {from: 2026-01-01, until: 2029-12-31}
budget: {unit: record, neighbours: add-or-remove-one, epsilon: 8, delta: 1e-5, per_round: {epsilon: 4}, per_dataset: {epsilon: 8}, overlap: 1}
training:
  mechanisms: [poisson-gaussian]
  clip: {at_most: 1.0, norm: l2}
  noise_multiplier: {at_least: 0.5}
  modules: [query]
  rank: {at_most: 8}
  base_models: [tiny]
protection: {schemes: [masking], min_cohort: 3, threshold: {at_least: 3}, colluding: 1, grid: {fraction_bits: {at_least: 0, at_most: 40}, value_bits: {at_most: 48}}}
release: {fields: [weights], to: members}
context: {purposes: [testing], regions: [here]}
"""
Lie = Callable[[str, Entry], Sequence[Entry]]


def honest(_: str, entry: Entry) -> Sequence[Entry]:
    """What an honest party writes down: what happened."""
    return (entry,)


def identity(name: str) -> keys.Identity:
    return keys.Identity(keys.Secret(hashlib.sha256(b"audited " + name.encode()).digest()))


def digest(*parts: object) -> Hash:
    return Hash(hashlib.sha256(repr(parts).encode()).digest())


@dataclass
class Party:
    """One party: its ledger, and what really happened there."""

    name: str
    leaves: list[Leaf] = field(default_factory=list)
    truth: list[Entry] = field(default_factory=list)

    def head(self, size: int | None = None) -> SignedHead:
        leaves = self.leaves[:size]
        root = merkle.root([merkle.leaf_hash(wire.encode(leaf)) for leaf in leaves])
        return heads.sign(identity(self.name), Head(MemberId(self.name), len(leaves), root))

    def file(self, size: int | None = None) -> export.LedgerFile:
        leaves = tuple(wire.encode(leaf) for leaf in self.leaves[:size])
        return export.LedgerFile(MemberId(self.name), identity(self.name).public, leaves, self.head(size))

    def account(self) -> Account:
        return Account.of(self.truth)


class Story:
    """Runs of one federation, as its parties' ledgers tell them."""

    def __init__(
        self,
        lie: Lie = honest,
        policy: str = POLICY,
        at: int = NOW,
        cohort: Sequence[str] = MEMBERS,
        names: Sequence[str] = MEMBERS,
        threshold: int = 3,
    ) -> None:
        self.lie, self.at, self.cohort, self.threshold = lie, at, tuple(cohort), threshold
        self.shown: Callable[[str], bytes] = lambda _: b""  # the policy's signatures, as each party saw them
        self.policy = policies.parse(policy.encode(), "policy.yaml")
        self.parties = {name: Party(name) for name in (*names, "coordinator")}
        self.runs = 0

    def note(self, name: str, *entries: Entry) -> None:
        self.parties[name].truth += entries
        for entry in entries:
            self.parties[name].leaves += [Leaf(self.at, told) for told in self.lie(name, entry)]

    def say(
        self,
        sender: str,
        to: str,
        kind: str,
        round_: int,
        plan: Hash | None = None,
        cost: int = 0,
        said: Hash | None = None,
    ) -> SignedReceipt:
        body = said or digest(sender, to, kind, round_, self.runs)
        receipt = Receipt(
            MemberId(sender), MemberId(to), self.run, round_, kind, plan, MicroEpsilon(cost), body, 100
        )  # fmt: skip
        signature = identity(sender).sign("receipt", wire.encode(receipt))
        self.note(sender, MessageSent(receipt, signature))
        self.note(to, MessageReceived(receipt, signature))
        return SignedReceipt(receipt, signature)

    def seats(self, names: Sequence[str]) -> tuple[Participant, ...]:
        return tuple(Participant(MemberId(name), identity(name).public, "here") for name in names)

    def begin(self) -> None:
        self.runs += 1
        self.run = RunId(digest("run", self.runs)[:16])
        self.base = digest("start")
        for name in ("coordinator", *self.cohort):
            role, dataset = ("coordinator", "") if name == "coordinator" else ("member", f"{name}-data")
            opened = RunJoined(
                self.run,
                self.policy.federation,
                role,
                self.policy.text,
                dataset,
                self.seats((*self.cohort, "coordinator")),
                self.shown(name),
            )
            self.note(name, opened)
            if name != "coordinator":
                self.say("coordinator", name, "Invite", 0)
                self.say(name, "coordinator", "Accept", 0)

    def plan(self, round_: int) -> Plan:
        return Plan(
            self.policy.federation, self.policy.hash, self.run, round_, "testing", Model("tiny", Hash(bytes(32))),
            Task("classification", ("x", "y")), Adapter(("query",), 4, 8, 1),
            Learning(EVENT, Fraction(1), 10, Fraction(1, 10), "sgd", 16, 16),
            ProtectionSpec(Scheme.MASKING, 3, self.threshold, 1, FixedPoint(24, 16, 32), None), self.seats(self.cohort), ("weights",), self.base, 12,
            layout=wire.layout_digest(saved_adapter.LAYOUT),
        )  # fmt: skip

    def round(self, number: int, lost: Sequence[str] = (), asked: Callable[[str], Sequence[str]] | None = None) -> None:
        plan = self.plan(number)
        name = wire.plan_hash(plan)
        survivors = [member for member in self.cohort if member not in lost]
        sealed: dict[str, SignedReceipt] = {}
        for member in self.cohort:
            self.say("coordinator", member, "Propose", number, name)
            reserved = self.reserve(member, plan)
            self.note(member, reserved, Settled(name, EVENT))
            if member in survivors:
                sealed[member] = self.say(member, "coordinator", "Submitted", number, name, reserved.price.round)
        for member in survivors if asked else ():
            about = masking_terms.question_about([MemberId(each) for each in asked(member)])
            receipts = tuple(sealed[each] for each in sorted(asked(member)))
            said = Hash(hashlib.sha256(wire.encode(m.Ask(number, about, receipts))).digest())
            self.say("coordinator", member, "Ask", number, name, said=said)
        self.state = repr(("state", self.runs, number)).encode().ljust(48)
        self.base = m.state_digest(self.state)
        self.note(
            "coordinator",
            SumOpened(
                self.run, number, name, tuple(MemberId(member) for member in sorted(survivors)), digest("sum", number)
            ),
            Released(self.run, number, self.base),
        )
        self.last = number

    def reserve(self, member: str, plan: Plan) -> Reserved:
        account = self.parties[member].account()
        data, delta = f"{member}-data", float(self.policy.budget.delta_share)
        due = price(plan, account, data, delta, self.policy.caps(data, plan.run))
        answer = decide(self.policy, plan, account, due, self.at)
        nonce = (
            answer.nonce
            if isinstance(answer, Grant)
            else wire.digest("grant", (wire.plan_hash(plan), account.digest))[:16]
        )
        return Reserved(plan, f"{member}-data", due, nonce)

    def close(self, outcome: str = "finished", away: Sequence[str] = ()) -> None:
        members = [member for member in self.cohort if member not in away]
        heads_seen = [self.parties[name].head() for name in self.cohort]
        for member in members:
            self.say("coordinator", member, "Close", 0)
            for head in (*heads_seen, self.parties["coordinator"].head()):
                if head.head.owner != member:
                    self.note(member, Witnessed(head))
            self.note(member, Released(self.run, self.last, self.base), Closed(self.run, outcome, ""))
            self.say(member, "coordinator", "Bye", 0)
        self.note(
            "coordinator", *(Witnessed(self.parties[name].head()) for name in members), Closed(self.run, outcome, "")
        )

    def leave(self, run: Path, page: str = "<h1>harbour</h1>") -> Path:
        """What a bench leaves of the run that was closed last: report, page, adapter, keys, and the word that binds them."""
        self.export(run)
        ledgers = read_all(run)
        told = figures.figures(ledgers, self.run, figures.first_plan(ledgers, self.run) or self.plan(1))
        heldout = {"n": 9, "majority": 0.5, "before": 0.5, "after": 0.75, "macro_f1": 0.7, **dict.fromkeys(ARMS)}
        told |= {"federation": self.policy.federation} if "federation" not in told else {}
        rows = [{"name": n, "region": r, "heldout": heldout, "note": ""} for n, r in told["members"].items()]
        accuracy = {key: value for key, value in heldout.items() if key != "n"} | {"measure": "accuracy", "note": ""}
        released = told["protections"]["cohort_sizes"] != []
        told |= {
            "members": rows, "accuracy": accuracy, "seconds": {"total": 1.5}, "versions": {"securefl": "0"},
            "adapter": "adapter" if released else None,
        }  # fmt: skip
        told["protections"] |= {"engine": "fast"}
        told["epsilon"] |= {"accountant_version": "0"}
        (run / "report.html").write_text(page)
        if released:
            saved_adapter.leave(self.plan(self.last), self.state, run / "adapter")
        (run / "keys.json").write_text(json.dumps({n: identity(n).public.hex() for n in self.parties}))
        (run / "measured.jsonl").write_text('{"what": "seed", "bits": 256}\n')
        (run / "report.json").write_text(json.dumps(told, indent=1))
        outcome = told["outcome"]["status"]
        (run / "run.json").write_text(json.dumps({"run": self.run.hex(), "federation_file": "00", "outcome": outcome}))
        self.note("coordinator", folder.reported(self.run, ledgers, folder.files(run)))
        return self.export(run)

    def leave_own(self, run: Path, change: Callable[[Path], None] = lambda _: None, **told: object) -> Path:
        """What a coordinator of its own leaves of the run that was closed last, with all ledgers laid beside its own.

        Args:
            run: the folder.
            change: what is done to the folder before the coordinator binds it.
            told: fields of ``coordinated.json`` that say something else.
        """
        own = read_all(self.export(run))[MemberId("coordinator")]
        plan = self.plan(self.last)
        saved_adapter.leave(plan, self.state, run / folder.ADAPTER)
        for path in (run / folder.ADAPTER).iterdir():
            if path.name not in (adapter_files.LAYOUT, adapter_files.STATE):
                path.unlink()
        facts = figures.coordinated(own, self.run) | coordinated.of_plan(plan)
        facts |= {"seconds": 1.5, "adapter": folder.ADAPTER, "versions": {"securefl": "0"}}
        coordinated.write(facts | told, run)
        outcome = facts["outcome"]["status"]
        (run / "run.json").write_text(json.dumps({"run": self.run.hex(), "coordinator_file": "00", "outcome": outcome}))
        (run / "keys.json").write_text(json.dumps({n: identity(n).public.hex() for n in self.parties}))
        change(run)
        self.note("coordinator", folder.reported(self.run, {own.owner: own}, folder.files(run)))
        return self.export(run)

    def export(self, run: Path) -> Path:
        for name, party in self.parties.items():
            if party.leaves:
                export.write(run / "ledger" / f"{name}.ledger", party.file())
        return run


def told(lie: Lie = honest, rounds: int = 2, **how: object) -> Story:
    """One whole run."""
    story = Story(lie, **how)  # type: ignore[arg-type]
    story.begin()
    for number in range(1, rounds + 1):
        story.round(number)
    story.close()
    return story


def cheaper(paid: Price, **less: int) -> Price:
    """The same price, understated by so many millionths: ``round``, ``dataset`` or ``federation``."""
    after = {level: MicroEpsilon(cost - less.get(level.value, 0)) for level, cost in paid.after.items()}
    return replace(paid, round=MicroEpsilon(paid.round - less.get("round", 0)), after=after)


def without(paid: Price, level: Level) -> Price:
    return replace(paid, after={other: cost for other, cost in paid.after.items() if other is not level})
