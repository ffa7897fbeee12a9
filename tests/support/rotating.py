"""A federation whose parties live long, and exchange their keys, revoke them or leave while runs go on."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from securefl import key_files
from securefl.home import notices
from securefl.home.home import Home
from securefl.home.peers import pin
from securefl.home.rotation import rotate
from securefl.policy import load
from securefl.protocol import coordinator_state, key_standing
from securefl.protocol import messages as m
from securefl.protocol.seen_heads import Seen
from securefl.runtime.inprocess import InProcess
from securefl.seams import Runtime
from securefl.terms import MemberId, Participant, Revocation, RunId, SignedNotice
from tests.support.parties import COORDINATOR, NOW, Federation, InOrder

HOUR = 3600


@dataclass(frozen=True)
class Rotating(Federation):
    """Its parties' keys are those that their homes have; its time passes as it is told."""

    time: list[int] = field(default_factory=lambda: [NOW])
    max_age_days: int | None = None
    forgets: bool = False  # whether its coordinator holds nobody to what it saw

    @property
    def policy(self) -> load.Policy:
        text = super().policy.text
        if self.max_age_days is not None:
            text += f"keys: {{max_age_days: {self.max_age_days}}}\n".encode()
        return load.parse(text, "policy.yaml")

    def home(self, name: str) -> Home:
        made = super().home(name)
        made.engine.dispose()
        return Home.at(made.path, made.owner, lambda: self.time[0])

    def seen(self, home: Home, session: m.Session) -> Seen:
        """What the coordinator's ledger has, as a live one begins."""
        if self.forgets:
            return Seen({}, {})
        with home.transaction() as conn:
            return home.witnessed(conn, (*session.roster, *filter(None, (session.custodian,))))

    def seat(self, name: str) -> Participant:
        path = self.place(name) / "identity.key"
        seat = super().seat(name)
        return replace(seat, key=key_files.load(path).public) if path.exists() else seat

    def made(self) -> Rotating:
        """Everybody has a home, and knows the others."""
        session = self.session()
        for name in (COORDINATOR, *self.parties):
            home = self.home(name)
            pin(home.path, self.name, (session.coordinator, *filter(None, (session.custodian,)), *session.roster))
            home.engine.dispose()
        return self

    def everybody(self) -> tuple[str, ...]:
        return (COORDINATOR, *self.parties)

    def say(self, name: str, how: Callable[[Home], SignedNotice]) -> SignedNotice:
        """What one party says of its key, by a process of its own."""
        home = self.home(name)
        try:
            return how(home)
        finally:
            home.engine.dispose()

    def taken(self, signed: SignedNotice, *, by: tuple[str, ...] = ()) -> None:
        """The others take it in, each by a process of its own."""
        for name in by or self.everybody():
            home = self.home(name)
            notices.take(home, self.name, notices.read(notices.text_of(signed).encode(), "mail"))
            home.engine.dispose()

    def rotated(self, name: str, overlap_s: int = HOUR) -> SignedNotice:
        return self.say(name, lambda home: rotate(home, overlap_s)[0])

    def copied(self, name: str) -> None:
        """Back this party's home up, as it is now."""
        backup = self.folder / f"backup of {name}"
        shutil.rmtree(backup, ignore_errors=True)
        shutil.copytree(self.place(name), backup)

    def put_back(self, name: str) -> None:
        """Restore the whole home from its copy, a minute later."""
        shutil.rmtree(self.place(name))
        shutil.copytree(self.folder / f"backup of {name}", self.place(name))
        self.time[0] += 60

    def inviting(self, seat: Participant) -> Rotating:
        """The same federation, whose coordinator invites a party by this key of its line."""
        asked, whole = replace(self), self.seat
        object.__setattr__(asked, "seat", lambda name: seat if name == seat.member else whole(name))
        object.__setattr__(asked, "in_run", lambda number: self.in_run(number).inviting(seat))
        return asked

    def in_run(self, number: int) -> Rotating:
        return replace(self, run=RunId(number.to_bytes(16, "big")))


def _rotated(federation: Rotating, name: str) -> None:
    federation.taken(federation.rotated(name))


def _rotated_twice(federation: Rotating, name: str) -> None:
    _rotated(federation, name)
    _rotated(federation, name)


def _rotated_and_revoked(federation: Rotating, name: str) -> None:
    home = federation.home(name)
    home.engine.dispose()
    old = home.identity
    _rotated(federation, name)
    said = Revocation(federation.name, federation.seat(name).member, old.public, federation.time[0])
    federation.taken(key_standing.sign(old, said))


ROTATIONS = {"rotated": _rotated, "rotated twice": _rotated_twice, "rotated, the old key revoked": _rotated_and_revoked}


class Living:
    """Agents that outlive every run and every exchange of a key: each was built once."""

    def __init__(self, federation: Rotating) -> None:
        self.federation = federation
        self.agents = {MemberId(name): federation.party(name) for name in federation.parties}

    def play(
        self,
        number: int,
        rounds: int = 1,
        before: Callable[[str, int], None] = lambda kind, times: None,
        *,
        last: str = "",
    ) -> tuple[coordinator_state.Ended, InOrder]:
        """A run; ``before`` is told of each exchange, by its kind and how often that came before.

        Args:
            last: whose answer comes last; then ``before`` is told when all the others have come.
        """
        runtime = InOrder(Telling(InProcess(self.agents), before, last))
        return self.federation.in_run(number).drive(runtime, rounds), runtime


class Telling:
    """The same runtime, which says what it is about to ask; or, of an answer that comes last, that it is to come."""

    def __init__(self, inner: Runtime, before: Callable[[str, int], None], last: str = "") -> None:
        self.inner, self.before, self.last, self.times = inner, before, last, dict[str, int]()

    def exchange(self, outbound, waiting):
        from securefl import wire
        from securefl.protocol import messages as m

        asked = list(outbound)
        kind = wire.decode(asked[0][1], m.Frame).envelope.receipt.kind
        times = self.times.setdefault(kind, 0)
        self.times[kind] += 1
        if not self.last:
            self.before(kind, times)
            yield from self.inner.exchange(asked, waiting)
            return
        came = list(self.inner.exchange(asked, waiting))
        yield from (each for each in came if each[0] != self.last)
        self.before(kind, times)
        yield from (each for each in came if each[0] == self.last)


def folder_of(federation: Federation, copies: Path) -> Path:
    """Everybody's exported ledger, as an auditor has them."""
    from securefl.home import export

    for name in (COORDINATOR, *federation.parties):
        home = federation.home(name)
        export.one(home, copies)
        home.engine.dispose()
    return copies
