"""The key of a state is gone once a newer state stands, whatever a process was doing when it ended."""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy as sa

from securefl import files
from securefl.errors import OperatorFault, Tampered
from securefl.home.home import Home
from securefl.home.ratchet import Ratchet
from securefl.ledger.tables import machines
from securefl.protocol import coordinator_state
from securefl.terms import Closed, MemberId, Participant, RunId
from tests.support import worlds

NORTH, RUN = MemberId("north"), RunId(bytes(16))
RunJoined = Callable[[], Home]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[RunJoined]:
    made: list[Home] = []

    def opened() -> Home:
        made.append(Home.at(tmp_path / "north", NORTH, lambda: 1))
        return made[-1]

    yield opened
    for home in made:
        home.engine.dispose()


def seat(number: int) -> Participant:
    return replace(worlds.seat("north"), region=str(number))


def save(home: Home, state: object, number: int = 0) -> bytes:
    """The row, once it stands."""
    with home.transaction() as conn:
        home.commit(conn, RUN, [Closed(RUN, "aborted", str(number))], state)
    with home.transaction() as conn:
        return bytes(conn.execute(sa.select(machines.c.state)).scalar_one())


def ended() -> coordinator_state.Ended:
    state = worlds.World().coordinator.state
    assert isinstance(state, coordinator_state.Planned)
    return coordinator_state.Ended(state.course, "completed", "", 1)


def put(home: Home, row: bytes) -> None:
    with home.engine.begin() as conn:
        conn.execute(sa.update(machines).values(state=row))


def test_each_state_has_a_key_of_its_own_that_nothing_of_the_home_gives(site: RunJoined) -> None:
    home, file = site(), Ratchet.of(site().path, RUN)
    seen = []
    for number in range(4):
        save(home, seat(number))
        (key,) = file.held()
        assert key not in seen
        seen.append(key)
        assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
        with home.transaction() as conn:
            assert home.saved(conn, RUN, Participant) == seat(number)
    data = file.path.read_bytes()
    assert not any(each.raw in data for each in seen[:-1])


def test_what_was_rolled_back_costs_nothing(site: RunJoined) -> None:
    home = site()
    save(home, seat(1))
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), home.transaction() as conn:
            home.commit(conn, RUN, [Closed(RUN, "aborted", "")], seat(2))
            1 / 0  # noqa: B018
        with home.transaction() as conn:
            assert home.saved(conn, RUN, Participant) == seat(1)
    with pytest.raises(ZeroDivisionError), home.transaction() as conn:
        home.commit(conn, RUN, [Closed(RUN, "aborted", "")], seat(2))
        1 / 0  # noqa: B018
    save(home, seat(3))  # without a look at what stands
    with site().transaction() as conn:
        assert home.saved(conn, RUN, Participant) == seat(3)
    assert len(Ratchet.of(home.path, RUN).held()) == 1


@pytest.mark.parametrize("over", [False, True])
def test_a_process_that_ends_between_commit_and_overwriting_leaves_a_state_that_opens(
    site: RunJoined, *, over: bool
) -> None:
    home = site()
    file = Ratchet.of(home.path, RUN)
    old = save(home, seat(1))
    with home.transaction() as conn:
        home.commit(conn, RUN, [Closed(RUN, "aborted", "")], ended() if over else seat(2))
        both = file.path.read_bytes()
        assert len(file.held()) == 2
    with home.transaction() as conn:
        new = bytes(conn.execute(sa.select(machines.c.state)).scalar_one())
    files.write(file.path, both)
    put(home, old)
    with (
        pytest.raises(Tampered, match="saved at entry 1, and the ledger told of the run at 2"),
        home.transaction() as conn,
    ):
        home.saved(conn, RUN, Participant)
    put(home, new)
    again = site()  # writes over what the process before could not
    assert len(file.held()) == (0 if over else 1)
    assert file.path.exists() is not over
    with again.transaction() as conn:
        assert again.saved(conn, RUN, coordinator_state.State if over else Participant) == (
            ended() if over else seat(2)
        )
    put(again, old)
    with pytest.raises(Tampered, match="altered, or moved here"), again.transaction() as conn:
        again.saved(conn, RUN, Participant)


def test_a_run_that_is_over_has_no_key_and_its_last_state_is_still_read(site: RunJoined) -> None:
    home = site()
    save(home, seat(1))
    save(home, ended())
    save(home, ended(), 1)
    assert not Ratchet.of(home.path, RUN).path.exists()
    with site().transaction() as conn:
        assert home.saved(conn, RUN, coordinator_state.State) == ended()


def test_a_key_that_is_gone_or_that_others_may_read_is_refused(site: RunJoined) -> None:
    home = site()
    save(home, seat(1))
    file = Ratchet.of(home.path, RUN).path
    file.chmod(0o640)
    with pytest.raises(OperatorFault, match="chmod 600"), home.transaction() as conn:
        home.saved(conn, RUN, Participant)
    file.unlink()
    with pytest.raises(Tampered, match="altered, or moved here"), home.transaction() as conn:
        home.saved(conn, RUN, Participant)
