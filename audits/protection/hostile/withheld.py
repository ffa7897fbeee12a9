"""A coordinator hides what was seen of a ledger from the home that was set back, from its peers, or from both.

The coordinator signs what it likes and passes on what it likes; members, custodian and homes are unmodified. Somebody
else puts one member's whole home back to an earlier copy: what it spent since is forgotten there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile.rollback import Stage
from securefl import keys, wire
from securefl.home.home import Home
from securefl.protocol import coordinator, coordinator_state
from securefl.protocol import messages as m
from securefl.runtime.inprocess import InProcess
from securefl.seams import Failure, Runtime
from securefl.terms import MemberId, Participant, Scheme, SignedHead
from tests.support import nested

SCHEMES = (Scheme.MASKING, Scheme.CKKS)
Asked = tuple[MemberId, m.Request]
Trick = Callable[["Hiding", MemberId, m.Request], m.Request]


def no_heads(world: Hiding, to: MemberId, message: m.Request) -> m.Request:
    """Show nobody a head that it need not be shown."""
    del world, to
    return replace(message, heads=()) if isinstance(message, m.Invite | m.Propose | m.Close) else message


def newest_beside(world: Hiding, to: MemberId, message: m.Request) -> m.Request:
    """Beside the victim's acceptance, lay the longest ledger that its peers saw of it; show itself none of that."""
    if isinstance(message, m.Enrol) and to != world.victim and world.longest is not None:
        shown = (
            replace(frame, head=world.longest) if frame.envelope.receipt.sender == world.victim else frame
            for frame in message.accepts
        )
        return replace(message, accepts=tuple(shown))
    if isinstance(message, m.Invite | m.Propose | m.Close):
        return replace(message, heads=tuple(each for each in message.heads if each.head.owner != world.victim))
    return message


def acceptances_apart(world: Hiding, to: MemberId, message: m.Request) -> m.Request:
    """Show the victim no acceptance of a peer that saw more, and its peers not the victim's."""
    if not isinstance(message, m.Enrol):
        return no_heads(world, to, message)
    others = {frame.envelope.receipt.sender for frame in message.accepts} - {world.victim}
    others &= set(world.tree) if world.number % 4 < 2 else others  # with the custodian, if there is one, or without
    hidden = others if to == world.victim else {world.victim}
    return replace(message, accepts=tuple(f for f in message.accepts if f.envelope.receipt.sender not in hidden))


def nothing_seen(world: Hiding, to: MemberId, message: m.Request) -> m.Request:
    """Say in a peer's name that it saw nothing: its own signature is missing under that."""
    if not isinstance(message, m.Enrol):
        return no_heads(world, to, message)

    def emptied(frame: m.Frame) -> m.Frame:
        accept = wire.decode(frame.envelope.body, m.Accept)
        body = wire.encode(replace(accept, seen=()))
        return replace(frame, envelope=replace(frame.envelope, body=body))

    return replace(message, accepts=tuple(map(emptied, message.accepts)))


def no_receipts(world: Hiding, to: MemberId, message: m.Request) -> m.Request:
    """Ask for what opens a sum without the receipts of its inputs, or with the others' alone."""
    if isinstance(message, m.Ask) and to in world.tree:
        kept = () if world.number % 2 else tuple(r for r in message.sealed if r.receipt.sender != world.victim)
        return replace(message, sealed=kept)
    return no_heads(world, to, message)


@dataclass
class Hiding(nested.World):
    """A federation whose coordinator alters what it sends, under its own signature, and forgets what it likes."""

    trick: Trick = no_heads
    victim: str = ""
    number: int = 0
    longest: SignedHead | None = field(default=None)

    def known(self, home: Home, federation: str, seats: Iterable[Participant]) -> Mapping[str, SignedHead]:
        """All but the victim's: the coordinator minds nothing that the victim shows."""
        found = dict(super().known(home, federation, seats))
        self.longest = found.pop(self.victim, None)
        return found

    def carried(self, way: tuple[str, ...], runtime: InProcess) -> Runtime:
        """What the coordinator's machine sends, altered."""
        return _Altering(self, self.home((*way, "coordinator")).identity, runtime)


@dataclass(frozen=True)
class _Altering:
    world: Hiding
    identity: keys.Identity
    inner: InProcess

    def exchange(
        self, outbound: Iterable[tuple[MemberId, bytes]], patience_s: float
    ) -> Iterator[tuple[MemberId, bytes | Failure]]:
        return self.inner.exchange([(to, self._altered(to, data)) for to, data in outbound], patience_s)

    def _altered(self, to: MemberId, data: bytes) -> bytes:
        frame: m.Frame = wire.decode(data, m.Frame)
        receipt = frame.envelope.receipt
        message = m.opened(frame.envelope, m.Request)
        assert isinstance(message, m.Request)
        told = self.world.trick(self.world, to, message)
        if told == message:
            return data
        made = m.enclose(
            self.identity, receipt.sender, to, receipt.run, receipt.round, told, receipt.plan, head=receipt.head
        )
        return wire.encode(m.Frame(made, frame.head))


class Hidden(Stage):
    """A stage whose coordinator hides."""

    def __init__(self, number: int, folder: Path, scheme: Scheme) -> None:
        self.number, self.trick = number, no_heads
        super().__init__(number, folder, scheme)
        self.victim = self.drawn.choice(self.names)
        self.world = self.opened()

    def opened(self) -> nested.World:
        """New processes on the same homes, under a coordinator that is the adversary."""
        tree, victim = dict.fromkeys(self.names), getattr(self, "victim", "")
        return Hiding(
            self.folder / "homes", tree, (self.scheme,), rounds=1, trick=self.trick, victim=victim, number=self.number
        )

    def play(self, number: int, at: Callable[[int], object] = lambda _: None) -> coordinator_state.Ended | None:
        """One run; the coordinator's own program takes in nothing that peers say they saw."""
        honest = coordinator.with_seen
        coordinator.with_seen = lambda course, _: course  # the adversary's own program
        try:
            return super().play(number, at)
        finally:
            coordinator.with_seen = honest

    def hidden(self, trick: Trick, run: int, at: Callable[[int], object] = lambda _: None) -> None:
        """A run under a coordinator that hides like this."""
        self.trick = trick
        self.world = self.opened()
        self.play(run, at)

    def forgotten(self, trick: Trick) -> Outcome:
        """Put the home back, and see whether the victim trains once more."""
        self.put_back(self.victim)
        self.trick = trick
        return self.again(self.victim, 9)


def rolled_back(number: int, folder: Path, *, trick: Trick, grown: bool = False) -> Outcome:
    """A run; the home is put back to before it, or to before it trained; the next is under a coordinator that hides."""
    stage = Hidden(number, folder, SCHEMES[number % 2])
    for each in (*stage.names, "coordinator"):
        stage.world.home((each,)).engine.dispose()
    stage.copy(stage.victim)

    def at(_: int) -> None:
        if number % 4 < 2:
            stage.copy(stage.victim)

    stage.hidden(lambda _, __, message: message, 1, at)
    if not grown:
        return stage.forgotten(trick)
    stage.put_back(stage.victim)
    stage.world = stage.opened()
    stage.grow(stage.victim)
    shutil.rmtree(folder / "backup")
    stage.copy(stage.victim)
    return stage.forgotten(trick)


def hidden_as_it_was_spent(number: int, folder: Path, *, trick: Trick = no_heads) -> Outcome:
    """The run to be forgotten is the one whose coordinator hides: every head that need not be shown is not.

    The home is copied once the victim has joined, so its peers saw no more of it than its acceptance, until it trains.
    """
    stage = Hidden(number, folder, SCHEMES[number % 2])

    def at(round_: int) -> None:
        if round_ == 1:
            stage.copy(stage.victim)

    stage.hidden(trick, 1, at)
    opened = any(name == stage.victim for name, _ in stage.world.trained) and _opened(stage)
    came = stage.forgotten(no_heads)
    if not opened:  # nothing of it was released, so nothing is forgotten
        return Outcome(succeeded=False, stopped_by=came.stopped_by or "nothing was opened")
    return came


def _opened(stage: Stage) -> bool:
    return any(type(entry).__name__ == "SumOpened" for entry in stage.entries("coordinator"))


ATTEMPTS = (
    Attempt(
        "A coordinator lays the longest ledger that was seen beside the word of a home that was put back",
        partial(rolled_back, trick=newest_beside),
    ),
    Attempt(
        "A coordinator shows neither a home that was put back nor its peers a head",
        partial(rolled_back, trick=no_heads),
    ),
    Attempt(
        "A coordinator lets a home that was put back grow past what was seen, and hides that it was seen",
        partial(rolled_back, trick=no_heads, grown=True),
    ),
    Attempt(
        "A coordinator shows a home that was put back no acceptance of a peer that saw more",
        partial(rolled_back, trick=acceptances_apart),
    ),
    Attempt("A coordinator says in a peer's name that it saw nothing", partial(rolled_back, trick=nothing_seen)),
    Attempt("A coordinator hides a ledger while it is spent, and the home is put back", hidden_as_it_was_spent),
    Attempt(
        "A coordinator asks for what opens a sum without showing whose ledgers paid for it",
        partial(hidden_as_it_was_spent, trick=no_receipts),
    ),
)
