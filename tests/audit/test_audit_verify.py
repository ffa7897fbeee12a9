"""Verification: an honest federation passes; every edit of its files, and every lie its parties can tell, is found."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest

from securefl import merkle, wire
from securefl.audit.verify import verify
from securefl.ledger import export, heads
from securefl.terms import (
    Closed,
    Entry,
    Hash,
    Head,
    Leaf,
    Level,
    MemberId,
    MessageReceived,
    MessageSent,
    Participant,
    Plan,
    PublicKey,
    Reason,
    Refused,
    Released,
    ReservationReleased,
    Reserved,
    RunJoined,
    Settled,
    SignedHead,
    SumOpened,
    Witnessed,
)
from tests.support import audited
from tests.support.audited import POLICY, Lie, Story, identity, told


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return told().export(tmp_path_factory.mktemp("good"))


@pytest.fixture
def copy(good: Path, tmp_path: Path) -> Path:
    shutil.copytree(good, tmp_path / "copy")
    return tmp_path / "copy"


def bad(run: Path, why: str, ledger: str | None = None) -> None:
    verdict = verify(run)
    assert not verdict.ok
    assert why in verdict.why
    if ledger is not None:
        assert verdict.first_bad is not None
        assert verdict.first_bad["ledger"] == ledger


# What must pass.


def test_an_honest_run_is_verified_and_every_entry_counted(good: Path) -> None:
    verdict = verify(good)
    assert (verdict.ok, verdict.first_bad, verdict.why) == (True, None, "")
    assert verdict.entries == sum(len(party.leaves) for party in told().parties.values())
    assert verify(good / "ledger") == verdict, "the folder of ledgers itself will do"


def test_lost_messages_members_that_vanish_and_later_runs_are_no_offence(tmp_path: Path) -> None:
    story = Story()
    story.begin()  # a run whose coordinator was killed for good before it could end
    story.round(1)
    story.begin()
    story.round(1, lost=["west"])
    story.close(away=["west"])
    story.cohort = ("north", "south", "east")  # west leaves the federation
    story.begin()
    story.round(1)
    story.close("aborted")
    verdict = verify(story.export(tmp_path))
    assert verdict.ok, verdict.why


def test_a_member_that_also_serves_another_federation_is_no_offence(tmp_path: Path) -> None:
    story = told(rounds=1)
    elsewhere = Story(policy=POLICY.replace("federation: harbour", "federation: airport"))
    elsewhere.runs = 7
    elsewhere.parties["north"] = story.parties["north"]
    elsewhere.begin()
    elsewhere.round(1)
    stranger = elsewhere.parties["coordinator"]
    opened = stranger.leaves[0].entry
    assert isinstance(opened, RunJoined)
    assert opened.run not in {
        leaf.entry.run for leaf in story.parties["south"].leaves if isinstance(leaf.entry, RunJoined)
    }
    # the other federation's coordinator has another key, and its ledger is not here
    north = story.parties["north"]
    north.leaves = [_rekeyed(leaf, opened.run) for leaf in north.leaves]
    verdict = verify(story.export(tmp_path))
    assert verdict.ok, verdict.why


def _rekeyed(leaf: Leaf, run: bytes) -> Leaf:
    """The entry as it would be with another coordinator, of the same name, in this run."""
    entry = leaf.entry
    if isinstance(entry, RunJoined) and entry.run == run:
        others = tuple(seat for seat in entry.peers if seat.member != "coordinator")
        return replace(
            leaf, entry=replace(entry, peers=(*others, Participant(MemberId("coordinator"), identity("x").public, "")))
        )
    if isinstance(entry, MessageReceived) and entry.receipt.run == run:
        return replace(leaf, entry=replace(entry, signature=identity("x").sign("receipt", wire.encode(entry.receipt))))
    return leaf


# What somebody can do to the files, with no key.


def test_no_byte_of_any_ledger_can_change_unnoticed(copy: Path) -> None:
    drawn = random.Random(6962)
    for path in sorted((copy / "ledger").iterdir()):
        data = path.read_bytes()
        for position in drawn.sample(range(len(data)), 50):
            changed = bytearray(data)
            changed[position] ^= 1 << drawn.randrange(8)
            path.write_bytes(changed)
            verdict = verify(copy)
            assert not verdict.ok, (path.name, position)
            assert verdict.first_bad is not None
            assert verdict.first_bad["ledger"] == path.name
        path.write_bytes(data)
    assert verify(copy).ok


def test_a_changed_entry_is_named(copy: Path) -> None:
    path = copy / "ledger" / "south.ledger"
    data, file = path.read_bytes(), export.read(path)
    for index in (0, 5, len(file.leaves) - 1):
        position = data.index(file.leaves[index]) + len(file.leaves[index]) // 2
        path.write_bytes(data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :])
        assert verify(copy).first_bad == {"ledger": "south.ledger", "entry": index}


EDITS = {
    "dropped": lambda leaves: leaves[:3] + leaves[4:],
    "doubled": lambda leaves: leaves[:3] + leaves[2:],
    "swapped": lambda leaves: (*leaves[:2], leaves[3], leaves[2], *leaves[4:]),
    "cut": lambda leaves: leaves[:-1],
    "emptied": lambda leaves: (),
    "reversed": lambda leaves: leaves[::-1],
}


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("owner", ["north", "coordinator"])
def test_entries_cannot_be_edited_without_the_owners_key(copy: Path, name: str, owner: str) -> None:
    path = copy / "ledger" / f"{owner}.ledger"
    file = export.read(path)
    export.write(path, replace(file, leaves=EDITS[name](file.leaves)))
    bad(copy, "do not give the root its owner signed", f"{owner}.ledger")


def test_folders_that_hold_less_or_more_than_ledgers_are_not_verified(copy: Path, tmp_path: Path) -> None:
    bad(tmp_path / "absent", "no ledgers here")
    (tmp_path / "empty" / "ledger").mkdir(parents=True)
    bad(tmp_path / "empty", "no ledgers here")
    bad(copy / "ledger" / "north.ledger", "give a run")
    (tmp_path / "run.json").write_text("{}")
    bad(tmp_path, "the run has not ended")
    (copy / "ledger" / "notes.txt").write_text("all is well")
    bad(copy, "not a ledger", "notes.txt")
    (copy / "ledger" / "notes.txt").unlink()
    (copy / "ledger" / "x.ledger").mkdir()
    bad(copy, "not a ledger", "x.ledger")


@pytest.mark.parametrize("owner", ["north", "coordinator"])
def test_a_ledger_that_is_taken_away_is_missed(copy: Path, owner: str) -> None:
    (copy / "ledger" / f"{owner}.ledger").unlink()
    bad(copy, "missing", f"{owner}.ledger")


def test_one_ledger_in_the_place_of_another_is_found(copy: Path) -> None:
    shutil.copy(copy / "ledger" / "north.ledger", copy / "ledger" / "south.ledger")
    bad(copy, "the ledger of north", "south.ledger")


def test_a_strangers_ledger_is_found(copy: Path) -> None:
    stranger = audited.Party("mallory", list(told().parties["north"].leaves))
    export.write(copy / "ledger" / "mallory.ledger", stranger.file())
    bad(copy, "own seat", "mallory.ledger")
    stranger.leaves = [leaf for leaf in stranger.leaves if isinstance(leaf.entry, Released)]
    export.write(copy / "ledger" / "mallory.ledger", stranger.file())
    bad(copy, "takes part in no run", "mallory.ledger")


def test_a_whole_ledger_under_a_new_key_is_found(copy: Path) -> None:
    file = export.read(copy / "ledger" / "north.ledger")
    forger = identity("forger")
    export.write(
        copy / "ledger" / "north.ledger", replace(file, key=forger.public, head=heads.sign(forger, file.head.head))
    )  # fmt: skip
    bad(copy, "own seat", "north.ledger")


# What the owner of a ledger can do to it afterwards, with its key.


@pytest.mark.parametrize("owner", ["north", "coordinator"])
def test_an_older_ledger_is_found_however_little_is_missing(copy: Path, owner: str) -> None:
    party = told().parties[owner]
    for size in (len(party.leaves) - 1, len(party.leaves) - 5, len(party.leaves) // 2, 1):
        export.write(copy / "ledger" / f"{owner}.ledger", party.file(size))
        bad(copy, "")


def test_a_fork_is_found_by_those_who_saw_the_other_branch(copy: Path) -> None:
    party = told().parties["north"]
    for index, leaf in enumerate(party.leaves[:-1]):
        forked = audited.Party("north", list(party.leaves))
        forked.leaves[index] = replace(leaf, at=leaf.at + 1)
        export.write(copy / "ledger" / "north.ledger", forked.file())
        bad(copy, "has seen", "north.ledger")


def test_a_ledger_may_be_longer_than_when_it_was_seen(copy: Path) -> None:
    party = told().parties["north"]
    party.leaves.append(
        Leaf(
            audited.NOW,
            RunJoined(b"x" * 16, "harbour", "member", POLICY.encode(), "d", audited.Story().seats(["north"])),
        )
    )
    export.write(copy / "ledger" / "north.ledger", party.file())
    assert verify(copy).ok, verify(copy).why


# What a party can lie about while it writes. Each lie: who tells it, about what, and what is said of it.


def lies(name: str, kind: type, change: object, nth: int = 0) -> Lie:
    """``name`` changes the nth entry of one kind that it writes; ``change`` gives what it writes instead."""
    seen = 0

    def lie(who: str, entry: Entry) -> Sequence[Entry]:
        nonlocal seen
        if who == name and isinstance(entry, kind):
            seen += 1
            if seen == nth + 1:
                return change(entry)  # type: ignore[operator, no-any-return]
        return (entry,)

    return lie


def message(name: str, kind: str, change: object, of: type = MessageSent) -> Lie:
    """``name`` changes every receipt for one kind of message that it writes."""

    def lie(who: str, entry: Entry) -> Sequence[Entry]:
        if who == name and isinstance(entry, of) and entry.receipt.kind == kind:
            return change(entry)  # type: ignore[operator, no-any-return]
        return (entry,)

    return lie


def signed(entry: MessageSent, **changes: object) -> MessageSent:
    receipt = replace(entry.receipt, **changes)
    return MessageSent(receipt, identity(receipt.sender).sign("receipt", wire.encode(receipt)))


def did(entry: Settled, **changes: object) -> tuple[Settled]:
    return (replace(entry, did=replace(entry.did, **changes)),)


def quiet_plan(entry: Reserved) -> tuple[Reserved]:
    event = replace(entry.plan.learning.event, steps=1)
    return (replace(entry, plan=replace(entry.plan, learning=replace(entry.plan.learning, event=event))),)


LAX = POLICY.replace("epsilon: 8,", "epsilon: 80,").encode()
NOBODY = SignedHead(Head(MemberId("nobody"), 1, Hash(bytes(32))), bytes(64))

LIES: dict[str, tuple[Lie, str, str]] = {
    "a reservation left out": (lies("north", Reserved, lambda e: ()), "no reservation to settle", "north.ledger"),
    "a reservation doubled": (lies("north", Reserved, lambda e: (e, e)), "price of", "north.ledger"),
    "a settlement left out": (lies("north", Settled, lambda e: ()), "not settled", "north.ledger"),
    "more steps than reserved": (lies("north", Settled, lambda e: did(e, steps=6)), "something else was settled than its plan does", "north.ledger"),
    "more noise than reserved": (lies("north", Settled, lambda e: did(e, noise_multiplier=Fraction(9))), "may cost less than", "north.ledger"),
    "freed although it ran": (lies("north", Settled, lambda e: (ReservationReleased(e.plan, ""),)), "not settled", "north.ledger"),
    "freed after it left": (lies("north", Settled, lambda e: (e, ReservationReleased(e.plan, ""))), "no reservation to settle or free", "north.ledger"),
    "a cheaper round": (lies("north", Reserved, lambda e: (replace(e, price=audited.cheaper(e.price, round=2)),)), "the price of the round", "north.ledger"),
    "a cheaper total": (lies("north", Reserved, lambda e: (replace(e, price=audited.cheaper(e.price, dataset=2)),), 1), "the price of the dataset", "north.ledger"),
    "a cheaper federation": (lies("north", Reserved, lambda e: (replace(e, price=audited.cheaper(e.price, federation=2)),)), "the price of the federation", "north.ledger"),
    "no total at all": (lies("north", Reserved, lambda e: (replace(e, price=audited.without(e.price, Level.DATASET)),)), "without the total", "north.ledger"),
    "a price of another account": (lies("north", Reserved, lambda e: (replace(e, price=replace(e.price, account=Hash(bytes(32)))),)), "another plan or account", "north.ledger"),
    "another data set charged": (lies("north", Reserved, lambda e: (replace(e, dataset="spare"),)), "charged to 'spare'", "north.ledger"),
    "a grant nobody gave": (lies("north", Reserved, lambda e: (replace(e, nonce=bytes(16)),)), "without the grant", "north.ledger"),
    "another plan than proposed": (lies("north", Reserved, quiet_plan), "nobody had proposed", "north.ledger"),
    "a laxer policy": (lies("north", RunJoined, lambda e: (replace(e, policy=LAX),)), "another policy, key or peer", "north.ledger"),
    "another task": (lies("north", RunJoined, lambda e: (replace(e, task="tone"),)), "another task for this run", "north.ledger"),
    "another federation": (lies("north", RunJoined, lambda e: (replace(e, federation="x"),)), "another policy, key or peer", "north.ledger"),
    "a peer left out": (lies("north", RunJoined, lambda e: (replace(e, peers=e.peers[1:]),)), "own seat", "north.ledger"),
    "a run that begins twice": (lies("north", RunJoined, lambda e: (e, e)), "begins twice", "north.ledger"),
    "a run that never began": (lies("north", RunJoined, lambda e: ()), "never joined the run", "north.ledger"),
    "a second coordinator": (lies("north", RunJoined, lambda e: (replace(e, role="coordinator"),)), "in which it was to train", "north.ledger"),
    "a result left out": (message("north", "Submitted", lambda e: ()), "got a Submitted that north's ledger never sent", "coordinator.ledger"),
    "a result at another price": (message("north", "Submitted", lambda e: (signed(e, cost=0),)), "never sent", "coordinator.ledger"),
    "a result of another size": (message("north", "Submitted", lambda e: (signed(e, size=7),)), "never sent", "coordinator.ledger"),
    "a second result": (message("north", "Submitted", lambda e: (e, signed(e, digest=Hash(bytes(32))))), "a second one of the same plan", "north.ledger"),
    "a result of no plan": (message("north", "Submitted", lambda e: (e, signed(e, plan=None))), "a result of no plan", "north.ledger"),
    "a receipt nobody signed": (message("north", "Accept", lambda e: (replace(e, signature=bytes(64)),)), "the receipt for a Accept", "north.ledger"),
    "a receipt in another's name": (message("north", "Accept", lambda e: (e, signed(e, sender=MemberId("south")))), "who are not peers here", "north.ledger"),
    "an answer nobody gave": (message("coordinator", "Accept", lambda e: (replace(e, receipt=replace(e.receipt, size=1)),), MessageReceived), "the receipt for a Accept", "coordinator.ledger"),
    "an answer from a stranger": (message("coordinator", "Accept", lambda e: (replace(e, receipt=replace(e.receipt, sender=MemberId("x"))),), MessageReceived), "who are not peers here", "coordinator.ledger"),
    "a request kept secret": (message("coordinator", "Propose", lambda e: ()), "never sent", "east.ledger"),
    "another release": (lies("north", Released, lambda e: (replace(e, digest=Hash(bytes(32))),)), "another release of round 2", "north.ledger"),
    "a sum over too few": (lies("coordinator", SumOpened, lambda e: (replace(e, survivors=e.survivors[:2]),)), "a sum over 2 members; the plan asks for 3", "coordinator.ledger"),
    "a sum over one twice": (lies("coordinator", SumOpened, lambda e: (replace(e, survivors=(*e.survivors[:3], e.survivors[0])),)), "somebody twice", "coordinator.ledger"),
    "a sum over a stranger": (lies("coordinator", SumOpened, lambda e: (replace(e, survivors=(*e.survivors, MemberId("x"))),)), "strangers", "coordinator.ledger"),
    "a second sum": (lies("coordinator", SumOpened, lambda e: (e, replace(e, survivors=e.survivors[1:]))), "a second sum of round 1", "coordinator.ledger"),
    "a release left out": (lies("coordinator", Released, lambda e: ()), "does not start from the release", "east.ledger"),
    "a head of nobody": (lies("north", Witnessed, lambda e: (e, Witnessed(NOBODY))), "who is no peer", "north.ledger"),
    "a head nobody signed": (lies("north", Witnessed, lambda e: (replace(e, head=replace(e.head, signature=bytes(64))),)), "head over", "north.ledger"),
    "an end kept secret by a member": (lies("north", Closed, lambda e: ()), "said goodbye", "north.ledger"),
    "an end kept secret by the coordinator": (lies("coordinator", Closed, lambda e: ()), "does not end", "coordinator.ledger"),
    "another end": (lies("north", Closed, lambda e: (replace(e, outcome="aborted"),)), "the run ended 'aborted' here", "north.ledger"),
    "another reason for the end": (lies("north", Closed, lambda e: (replace(e, why="power"),)), "the run ended 'power' here, and '' for", "north.ledger"),
    "an end before the beginning": (lies("north", RunJoined, lambda e: (Closed(e.run, "finished", ""), e)), "had not begun", "north.ledger"),
    "an end twice": (lies("north", Closed, lambda e: (e, e)), "or had ended", "north.ledger"),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_lies_that_fit_the_signatures_are_found(tmp_path: Path, name: str) -> None:
    lie, why, ledger = LIES[name]
    bad(told(lie).export(tmp_path), why, ledger)


def test_heads_of_an_absent_party_that_contradict_each_other_are_found(tmp_path: Path) -> None:
    """West shows one ledger to north and another to south, and its own is not in a later copy."""
    story = told(rounds=1)
    for witness, root in (("north", b"\x01" * 32), ("south", b"\x02" * 32)):
        story.note(witness, Witnessed(heads.sign(identity("west"), Head(MemberId("west"), 500, Hash(root)))))
    bad(story.export(tmp_path), "north and south saw two of 500 entries")


def test_a_reservation_left_open_in_a_finished_run_is_found(tmp_path: Path) -> None:
    story = told(lies("north", Settled, lambda e: (), nth=1), rounds=1)
    story.begin()
    story.round(1, lost=["north"])
    story.close()
    bad(story.export(tmp_path), "left a reservation open", "north.ledger")


def test_a_sum_over_somebody_who_never_paid_is_found(tmp_path: Path) -> None:
    story = Story(
        lies(
            "coordinator", SumOpened, lambda e: (replace(e, survivors=tuple(sorted((*e.survivors, MemberId("west"))))),)
        )
    )
    story.begin()
    story.round(1, lost=["west"])
    story.parties["west"].leaves = [
        leaf for leaf in story.parties["west"].leaves if not isinstance(leaf.entry, Settled)
    ]
    story.close("aborted")
    bad(story.export(tmp_path), "a sum over west, whose ledger settled no such plan", "coordinator.ledger")


def test_one_round_that_is_not_the_same_for_all_is_found(tmp_path: Path) -> None:
    story = Story()
    story.begin()
    story.round(1)
    other = story.plan(1)  # from the state the round ended with: another plan, for the same round
    story.say("coordinator", "west", "Propose", 1, wire.plan_hash(other))
    story.note("west", story.reserve("west", other), Settled(wire.plan_hash(other), audited.EVENT))
    story.close()
    bad(story.export(tmp_path), "another plan for round 1 than", "west.ledger")


SETS = {
    "the set that was opened": (lambda _: ("east", "north", "south"), None),
    "two sets": (lambda name: ("east", "north", "south")[: 2 if name == "south" else 3], "south.ledger"),
    "another set than was opened": (lambda _: ("north", "south"), None),
}


@pytest.mark.parametrize("what", SETS)
def test_everybody_was_asked_about_the_survivors_the_sum_was_opened_over(tmp_path: Path, what: str) -> None:
    asked, ledger = SETS[what]
    story = Story()
    story.begin()
    story.round(1, lost=("west",), asked=asked)
    story.close()
    if what == "the set that was opened":
        assert verify(story.export(tmp_path)).ok
    else:
        bad(story.export(tmp_path), "asked about other survivors of round 1", ledger)


def test_two_sets_are_found_also_where_no_sum_was_opened(tmp_path: Path) -> None:
    def never(_: str, entry: Entry) -> Sequence[Entry]:
        return () if isinstance(entry, SumOpened | Released) else (entry,)

    for name, asked in (
        ("one", lambda _: audited.MEMBERS),
        ("two", lambda member: audited.MEMBERS[member == "north" :]),
    ):
        story = Story(never)
        story.begin()
        story.round(1, asked=asked)
        story.close("aborted")
        run = story.export(tmp_path / name)
        assert verify(run).ok if name == "one" else "asked about other survivors" in verify(run).why


BROKEN_POLICIES = {
    "per_round: {epsilon: 4}": ("per_round: {epsilon: 0.1}", "above the limit of 0.1"),
    "per_dataset: {epsilon: 8}": ("per_dataset: {epsilon: 0.9}", "above the limit of 0.9"),
    "epsilon: 8, delta": ("epsilon: 0.9, delta", "above the limit of 0.9"),
    "overlap: 1": ("overlap: 20", "above the limit"),
    "clip: {at_most: 1.0": ("clip: {at_most: 0.5", "training.clip"),
    "noise_multiplier: {at_least: 0.5}": ("noise_multiplier: {at_least: 2}", "training.noise_multiplier"),
    "schemes: [masking]": ("schemes: [ckks]", "protection.schemes"),
    "min_cohort: 3": ("min_cohort: 5", "protection.min_cohort"),
    "purposes: [testing]": ("purposes: [marketing]", "context.purposes"),
    "regions: [here]": ("regions: [there]", "context.regions"),
    "until: 2029-12-31": ("until: 2026-01-02", "valid"),
    "securefl_policy: 1": ("securefl_policy: 9", "securefl_policy"),
}


@pytest.mark.parametrize("right", BROKEN_POLICIES)
def test_a_run_that_its_own_policy_forbids_is_found(tmp_path: Path, right: str) -> None:
    wrong, why = BROKEN_POLICIES[right]
    assert right in POLICY
    story = Story()
    if right != "securefl_policy: 1":
        story = Story(policy=POLICY.replace(right, wrong))
    else:  # not even a policy
        story.policy = replace(story.policy, text=POLICY.replace(right, wrong).encode())
    story.begin()
    story.round(1)
    story.round(2)
    story.close()
    bad(story.export(tmp_path), why)


def test_a_round_that_trains_other_tensors_than_its_rule_says_is_found(tmp_path: Path) -> None:
    class Changed(Story):
        def plan(self, round_: int):
            plan = super().plan(round_)
            return replace(plan, dimension=7) if round_ == 2 else plan

    story = Changed()
    story.begin()
    for number in (1, 2):
        story.round(number)
    story.close()
    bad(story.export(tmp_path), "round 2 trains other tensors than its rule says")


def test_an_error_while_checking_is_not_verified(good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise MemoryError("too large")

    monkeypatch.setattr(merkle, "root", broken)
    verdict = verify(good)
    assert not verdict.ok
    assert "MemoryError" in verdict.why


def test_verifying_changes_nothing(copy: Path) -> None:
    before = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    verify(copy)
    assert {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()} == before


def test_keys_are_told_apart_by_more_than_their_owners_name() -> None:
    from securefl.audit.ledger_files import Ledger, of_seat

    ledger = Ledger(MemberId("a"), identity("a").public, (), ())
    assert of_seat({ledger.owner: ledger}, Participant(ledger.owner, ledger.key, "anywhere")) is ledger
    assert of_seat({ledger.owner: ledger}, Participant(ledger.owner, PublicKey(bytes(32)), "")) is None
    assert of_seat({}, Participant(ledger.owner, ledger.key, "")) is None


class Changed(Story):
    """A coordinator that plans one round otherwise than the others."""

    def __init__(self, number: int, how: Callable[[Plan], Plan]) -> None:
        super().__init__()
        self.number, self.how = number, how

    def plan(self, round_: int) -> Plan:
        plan = super().plan(round_)
        return self.how(plan) if round_ == self.number else plan


@pytest.mark.parametrize("how", [
    lambda plan: replace(plan, learning=replace(plan.learning, divisor=plan.learning.divisor + 1)),
    lambda plan: replace(plan, learning=replace(plan.learning, clip_l2=Fraction(1, 1000))),
    lambda plan: replace(plan, task=replace(plan.task, labels=("y", "x"))),
    lambda plan: replace(plan, cover=replace(plan.cover, threshold=plan.cover.threshold + 1)),
    lambda plan: replace(plan, learning=replace(plan.learning, optimizer="adamw")),
    lambda plan: replace(plan, round=0),
])  # fmt: skip
@pytest.mark.parametrize("number", [1, 2])
def test_what_a_report_says_of_one_round_is_true_of_all(number: int, how, tmp_path: Path) -> None:
    story = Changed(number, how)
    story.begin()
    for round_ in (1, 2, 3):
        story.round(round_)
    story.close()
    verdict = verify(story.export(tmp_path))
    assert not verdict.ok
    assert "is none of this run" in verdict.why


def test_ledgers_alone_are_held_to_what_their_coordinator_said_that_they_were(tmp_path: Path) -> None:
    story, run = told(), tmp_path / "run"
    reason = Reason("protocol.stranger", "x", "y", "z")
    story.note("north", Refused(story.run, 3, "Propose", (reason,)))
    story.leave(run)
    assert verify(run / "ledger").ok, verify(run / "ledger").why
    party = story.parties["north"]
    export.write(run / "ledger" / "north.ledger", party.file(len(party.leaves) - 1))
    bad(run / "ledger", "are not those that the report was computed from", "north.ledger")


def asked_of_west(**changes: object) -> Lie:
    """The coordinator and west agree on a question to west whose receipt says something else, signed by both keys."""

    def lie(_: str, entry: Entry) -> Sequence[Entry]:
        if isinstance(entry, MessageSent | MessageReceived) and (entry.receipt.kind, entry.receipt.to) == (
            "Ask",
            "west",
        ):
            other = signed(MessageSent(entry.receipt, entry.signature), **changes)
            return (type(entry)(other.receipt, other.signature),)
        return (entry,)

    return lie


@pytest.mark.parametrize("changes", [{"plan": None}, {"plan": Hash(bytes(32))}, {"round": 7}])
def test_a_question_whose_receipt_names_no_plan_that_its_member_trained_is_found(
    tmp_path: Path, changes: dict[str, object]
) -> None:
    """Else two who agree on it would have one member answer for another sum, under a receipt that nobody compares."""
    story = Story(asked_of_west(**changes))
    story.begin()
    story.round(1, asked=lambda member: audited.MEMBERS[member == "west" :])
    story.close()
    bad(story.export(tmp_path), "its receipt names no plan of it that was paid for", "west.ledger")


@pytest.mark.parametrize("asked", [True, False])
def test_an_answer_without_its_question_is_found(tmp_path: Path, asked: bool) -> None:
    story = Story()
    story.begin()
    story.round(1, asked=(lambda _: audited.MEMBERS) if asked else None)
    plan = next(entry.plan for entry in story.parties["west"].truth if isinstance(entry, Reserved))
    story.say("west", "coordinator", "Answered", 1, wire.plan_hash(plan))
    story.close()
    if asked:
        assert verify(story.export(tmp_path)).ok
    else:
        bad(story.export(tmp_path), "no question that it answers", "west.ledger")
