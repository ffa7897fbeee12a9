"""A member that trained, paid and was not heard cuts that off its ledger; or parties do not ask how old keys are."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest import mock

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.evidence import check_of
from securefl import key_files, merkle, wire
from securefl.audit import cross_checks, key_checks
from securefl.audit.ledger_files import read_all
from securefl.audit.verify import verify
from securefl.errors import Tampered
from securefl.ledger import export, heads
from securefl.protocol import messages as m
from securefl.protocol.key_ages import KeyAges
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure, Runtime
from securefl.terms import Head, Leaf, MemberId, Noticed, Reserved, Scheme
from tests.support.rotating import COORDINATOR, Living, Rotating, folder_of

LISTED = "listed as not verified"
DAYS_ALLOWED, DAY_S = 30, 24 * 3600


@dataclass
class Unheard:
    """A runtime in which nothing comes back from one member once it was asked to train."""

    inner: Runtime
    member: str
    gone: bool = field(default=False, init=False)

    def exchange(
        self, outbound: Sequence[tuple[MemberId, bytes]], waiting: object
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        """Ask everybody but the member that is gone."""
        asked = list(outbound)
        proposed = wire.decode(asked[0][1], m.Frame).envelope.receipt.kind == m.Propose.__name__
        lost = [each for each in asked if self.gone and each[0] == self.member]
        for who, answer in self.inner.exchange([each for each in asked if each not in lost], waiting):  # type: ignore[arg-type]
            if proposed and who == self.member:
                self.gone, answer = True, Failure("late: lost")  # noqa: PLW2901
            yield who, answer
        yield from ((who, Failure("late: gone")) for who, _ in lost)


def _unheard(number: int, base: Path) -> tuple[Rotating, str]:
    """Two runs; in the second one a member trains and pays, and is not heard again."""
    federation = replace(Rotating(base / "homes"), priced=True).made()
    member = random.Random(number).choice(federation.names)  # noqa: S311 - trials that can be repeated
    living = Living(federation)
    living.play(1, 1)
    federation.in_run(2).drive(Unheard(InProcess(living.agents), member), 1)  # type: ignore[arg-type]
    return federation, member


def _cut(copies: Path, key: Path, member: str, number: int) -> tuple[int, int]:
    """Keep what is before the last price; behind it a hand-over alone. Return where the price was, and the cut."""
    place = copies / f"{member}.ledger"
    file = export.read(place)
    leaves = export.leaves_of(file, place.name)
    paid = max(index for index, leaf in enumerate(leaves) if isinstance(leaf.entry, Reserved))
    cut = paid - number % 3  # behind the plan that it was asked to train, in every case
    kept = (*file.leaves[:cut], *(file.leaves[index] for index in range(paid, len(leaves)) if _handed(leaves[index])))
    head = Head(MemberId(member), len(kept), merkle.root([merkle.leaf_hash(each) for each in kept]))
    export.write(place, replace(file, leaves=kept, head=heads.sign(key_files.load(key), head)))
    return paid, cut


def _handed(leaf: Leaf) -> bool:
    return isinstance(leaf.entry, Noticed)


def _found(copies: Path, pins: dict[str, str], member: str) -> Outcome:
    found = verify(copies, pins)
    listed = any(each.startswith(f"{member}.ledger: asked to train") for each in found.unverified)
    return Outcome(found.ok and not listed, check_of(found.why) or LISTED)


def behind_the_plan(number: int, base: Path) -> Outcome:
    """Cut a ledger behind the plan that its owner was asked to train: the price, and all after it, is gone."""
    federation, member = _unheard(number, base)
    pins = {name: federation.seat(name).key.hex() for name in federation.everybody()}
    copies = folder_of(federation, base / "copies")
    _cut(copies, federation.place(member) / "identity.key", member, number)
    return _found(copies, pins, member)


def below_a_hand_over(number: int, base: Path) -> Outcome:
    """Cut a ledger so, although the hand-over of its owner's key, in every other ledger, names how long it was."""
    federation, member = _unheard(number, base)
    pins = {name: federation.seat(name).key.hex() for name in federation.everybody()}
    federation.time[0] += 60
    federation.taken(federation.rotated(member))
    copies = folder_of(federation, base / "copies")
    _cut(copies, federation.place(member) / "identity.key", member, number)
    found = verify(copies, pins)
    return Outcome(found.ok, "fewer entries than were seen" if " has seen " in found.why else check_of(found.why))


def old_keys(number: int, base: Path) -> Outcome:
    """Train with a custodian, or open the sum of members, whose keys are too old for the policy, and do not ask."""
    federation = replace(Rotating(base / "homes", Scheme.MASKED_CKKS), max_age_days=DAYS_ALLOWED).made()
    Living(federation).play(1)
    federation.time[0] += (DAYS_ALLOWED + 1 + number) * DAY_S
    custodian = next(name for name in federation.parties if name not in federation.names)
    fresh = (COORDINATOR, *(federation.names if number % 2 else (custodian,)))
    for name in fresh:
        federation.taken(federation.rotated(name, 0))
    federation.time[0] += 60
    with mock.patch.object(KeyAges, "check", return_value=None):
        Living(federation).play(2)
    copies = folder_of(federation, base / "copies")
    keep = federation.names[number % len(federation.names)] if number % 2 else custodian
    blamed = {each for each in (keep,) if f"{each}.ledger" in _blamed(copies)}
    return Outcome(not blamed, "keys.too-old" if blamed else "nothing")


def _blamed(copies: Path) -> set[str]:
    """Every ledger in which an audit finds a key too old, each looked at by itself."""
    ledgers, found = read_all(copies), set[str]()
    summed = cross_checks.summed(cross_checks.covered(ledgers))
    for ledger in ledgers.values():
        try:
            key_checks.check(ledger, summed)
        except Tampered as fault:
            found.add(fault.where)
    return found


ATTEMPTS = (
    Attempt("a member cuts its ledger behind a plan that it trained, and is not heard again", behind_the_plan),
    Attempt("a member cuts its ledger below what its key's hand-over names", below_a_hand_over),
    Attempt("parties train with a custodian, or sum members, whose keys are too old", old_keys),
)
