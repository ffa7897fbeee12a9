"""A federation's name in a notice, a card or a message is a name: no file of a home is found by a path in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from securefl import wire
from securefl.errors import Malformed, OperatorFault
from securefl.home import adoption, introduced, notices, peers
from securefl.keys import Identity, Secret
from securefl.protocol import key_standing
from securefl.protocol import messages as m
from securefl.protocol.key_standing import NotTaken
from securefl.terms import Departure, Handover, MemberId, Revocation, SignedNotice
from tests.support.rotating import HOUR, Rotating
from tests.support.worlds import World

PATHS = ["../peers/f", "/elsewhere", "./f", "..", "f/..", "", ".", "F", "f\n", "f/", "a" * 64]
OLD, NEW = (Identity(Secret(bytes([seed]) * 32)) for seed in (1, 2))


@pytest.mark.parametrize("name", PATHS)
def test_no_notice_of_a_path_is_read(name: str) -> None:
    for notice in (
        Handover(name, MemberId("a"), OLD.public, 0, NEW.public, HOUR, None),
        Revocation(name, MemberId("a"), OLD.public, 0),
        Departure(name, MemberId("a"), OLD.public, 0),
    ):
        try:
            data = wire.encode(SignedNotice(notice, OLD.sign("x", b"x")))
        except ValueError:  # a character that hides: nobody can say it at all
            continue
        with pytest.raises(Malformed, match="no federation's name"):
            wire.decode(data, SignedNotice)


def test_a_session_of_a_path_is_not_read() -> None:
    session = World().coordinator.state.course.session  # type: ignore[attr-defined]
    data = wire.encode(session)
    assert wire.decode(data, m.Session) == session
    altered = m.Session(session.run, "../f", *(getattr(session, name) for name in m.Session.__slots__[2:]))
    with pytest.raises(Malformed, match="no federation's name"):
        wire.decode(wire.encode(altered), m.Session)


@pytest.mark.parametrize("name", PATHS)
def test_no_file_of_a_home_is_found_by_a_path(tmp_path: Path, name: str) -> None:
    for place in (peers.pinned, adoption.staged_at, introduced.roster_at):
        with pytest.raises(OperatorFault, match="is no federation's name"):
            place(tmp_path, name)


@pytest.mark.parametrize("name", ["../peers/f", "g"])
def test_a_notice_of_a_federation_that_this_home_is_not_in_changes_nothing(tmp_path: Path, name: str) -> None:
    federation = Rotating(tmp_path / "homes").made()
    author, home = federation.home("a"), federation.home("b")
    before, entries = peers.known(home.path, "f"), len(federation.entries("b"))
    said = Handover(name, MemberId("a"), author.identity.public, 0, NEW.public, HOUR, None)
    with pytest.raises(NotTaken) as refused:
        notices.take(home, name, key_standing.sign(author.identity, said, NEW))
    assert refused.value.rule == "keys.federation"
    assert (peers.known(home.path, "f"), len(federation.entries("b"))) == (before, entries)
    for each in (author, home):
        each.engine.dispose()
