"""What is long in a saved state is written once, opens for as long as a state refers to it, and then is gone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audits.speed.writes import one_round
from securefl import keys, wire
from securefl.errors import OperatorFault, Tampered
from securefl.home.body_files import ALONE, FOLDER, WHOLE, Bodies, Body, Known
from securefl.home.home import Home
from securefl.protocol import coordinator_state
from securefl.terms import Closed, MemberId, RunId
from tests.support.worlds import World, entropy

RUN, OWNER = RunId(bytes(16)), MemberId("north")
RAND = entropy("bodies")


@dataclass(frozen=True, slots=True)
class Inner:
    """A part of a state."""

    name: str
    data: bytes
    parts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class State:
    """A state with long and short parts."""

    inner: Inner | None
    by_name: dict[str, Inner]
    data: bytes


strings = st.one_of(
    st.binary(max_size=40), st.integers(0, 2_000).map(lambda size: bytes(range(256)) * (size // 256 + 1))
)
inners = st.builds(Inner, st.text("abc", max_size=300), strings, st.lists(strings, max_size=3).map(tuple))
states = st.builds(
    State,
    st.none() | inners,
    st.dictionaries(st.text("abc", max_size=3), inners, max_size=4),
    strings | inners.map(wire.encode),
)


@given(states)
def test_what_is_encoded_apart_is_had_back_and_no_long_string_is_left_in_it(state: State) -> None:
    kept: dict[bytes, bytes] = {}

    def keep(data: bytes) -> wire.Reference:
        kept[name := len(kept).to_bytes(2, "big")] = data
        return (name,)

    data = wire.encode_apart(
        state,
        lambda data: [keep(piece) if len(piece) >= wire.LONG else piece for piece in wire.cut(data)],
        lambda data: keep(data) if len(data) >= wire.LONG else None,
    )
    assert wire.decode_apart(data, State, lambda reference: kept[reference[0]]) == state
    shorter = 9 + 5 * wire.LONG * (len(state.by_name) + 1)
    assert len(data) < shorter


@given(
    st.binary(max_size=600) | states.map(wire.encode) | states.map(lambda state: wire.encode((wire.encode(state), 7)))
)
def test_pieces_of_a_byte_string_are_it_again(data: bytes) -> None:
    assert b"".join(wire.cut(data)) == data


def test_messages_that_hold_one_state_have_it_as_a_common_piece() -> None:
    base = RAND(5_000)
    one, two = (set(wire.cut(wire.encode(Inner(name, base, (RAND(400),))))) for name in ("a", "b"))
    assert {each for each in one & two if len(each) >= wire.LONG} == {base}


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], Home]]:
    made: list[Home] = []

    def at() -> Home:
        made.append(Home.at(tmp_path / "north", OWNER, lambda: 1))
        return made[-1]

    yield at
    for home in made:
        home.engine.dispose()


def course(**changes: object) -> coordinator_state.RunState:
    state = World().coordinator.state
    assert isinstance(state, coordinator_state.Planned)
    return replace(state.course, **changes)


def planned(*bodies: bytes) -> coordinator_state.Planned:
    return coordinator_state.Planned(course(enrolled={str(number): data for number, data in enumerate(bodies)}))


def save(home: Home, state: object) -> None:
    with home.transaction() as conn:
        home.commit(conn, RUN, [Closed(RUN, "aborted", "")], state)


def saved(home: Home) -> object:
    with home.transaction() as conn:
        return home.saved(conn, RUN, coordinator_state.State)


def bodies_of(home: Home) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((home.path / FOLDER).rglob("*")) if path.is_file()}


def test_a_body_is_written_once_and_removed_when_nothing_refers_to_it(opened: Callable[[], Home]) -> None:
    home, one, two = opened(), RAND(WHOLE), RAND(WHOLE)
    save(home, planned(one))
    (mine,) = [name for name, data in bodies_of(home).items() if len(data) > WHOLE]
    for again in (planned(one, two), planned(two, one, one)):
        before = bodies_of(home)
        save(home, again)
        assert saved(home) == saved(opened()) == again
        assert bodies_of(home)[mine] == before[mine]
        assert sum(len(data) > WHOLE for data in bodies_of(home).values()) == 2
    save(opened(), planned(two, b"of another process"))
    assert mine not in bodies_of(home)
    assert sum(len(data) > WHOLE for data in bodies_of(home).values()) == 1
    save(home, planned())
    assert bodies_of(home) == {}
    assert saved(home) == saved(opened()) == planned()


def test_a_state_that_is_short_stands_in_its_row(opened: Callable[[], Home]) -> None:
    home = opened()
    save(home, planned(RAND(WHOLE - 20_000)))
    assert not (home.path / FOLDER).exists()
    save(home, planned(RAND(WHOLE)))
    assert bodies_of(home)


def test_nothing_in_a_home_opens_a_body_that_no_state_refers_to(opened: Callable[[], Home]) -> None:
    home, secret = opened(), RAND(WHOLE)
    save(home, planned(secret))
    before, known = bodies_of(home), home.live.knows(RUN)
    assert known is not None
    save(home, planned(RAND(WHOLE)))
    everything = b"".join(path.read_bytes() for path in home.path.rglob("*") if path.is_file())
    gone = {body.key for body in known.bodies.values()} - {body.key for body in home.live.knows(RUN).bodies.values()}
    assert len(gone) >= 3, "what is common to both has its old keys"
    assert not any(key in everything for key in gone)
    assert not any(secret[:64] in data for data in before.values())


def test_a_body_that_is_gone_altered_or_anothers_is_refused(opened: Callable[[], Home], tmp_path: Path) -> None:
    home = opened()
    save(home, planned(RAND(WHOLE)))
    path = max((home.path / FOLDER).rglob("*"), key=lambda each: each.stat().st_size)
    data = path.read_bytes()
    for altered in (data[:-1] + bytes([data[-1] ^ 1]), data[:-1], b""):
        path.write_bytes(altered)
        with pytest.raises(Tampered, match="a part of the state of a run does not open"):
            saved(opened())
    path.write_bytes(data)
    path.chmod(0o640)
    with pytest.raises(OperatorFault, match="chmod 600"):
        saved(opened())
    path.unlink()
    with pytest.raises(Tampered, match="gone, and the state of a run refers to it"):
        saved(opened())
    other = Bodies.of(tmp_path, OWNER, RunId(bytes(15) + b"1"))
    known = other.save(planned(RAND(WHOLE)), None)
    assert known is not None
    assert other.load(known.root, coordinator_state.State).state == known.state
    with pytest.raises(Tampered):
        replace(other, context=Bodies.of(tmp_path, OWNER, RUN).context).load(known.root, coordinator_state.State)


def test_what_a_step_left_that_came_to_nothing_goes_with_the_next(opened: Callable[[], Home]) -> None:
    home, one = opened(), RAND(WHOLE)
    save(home, planned(one))
    stands = bodies_of(home)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), home.transaction() as conn:
            home.commit(conn, RUN, [Closed(RUN, "aborted", "")], planned(one, RAND(WHOLE)))
            1 / 0  # noqa: B018
        assert saved(home) == saved(opened()) == planned(one)
    assert len(bodies_of(home)) > len(stands)
    save(home, planned(one, b"next"))
    assert saved(opened()) == planned(one, b"next")
    assert len(bodies_of(home)) <= len(stands) + 1


def test_a_process_that_ends_between_a_commit_and_the_removal_leaves_what_the_next_step_removes(
    opened: Callable[[], Home], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, one, two = opened(), RAND(WHOLE), RAND(WHOLE)
    save(home, planned(one))
    (mine,) = [name for name, data in bodies_of(home).items() if len(data) > WHOLE]
    with monkeypatch.context() as patch, pytest.raises(ZeroDivisionError):
        patch.setattr(Bodies, "keep", lambda *_: 1 / 0)
        save(home, planned(two))
    assert mine in bodies_of(home)
    again = opened()
    assert saved(again) == planned(two)
    save(again, planned(two, b"next"))
    assert mine not in bodies_of(again)


def test_a_run_that_is_over_keeps_what_it_ended_with_and_nothing_else(opened: Callable[[], Home]) -> None:
    home, shared, alone = opened(), [RAND(1_000) for _ in range(70)], RAND(2 * ALONE)
    save(home, planned(*shared, RAND(WHOLE), alone))
    end = coordinator_state.Ended(
        course(enrolled={"a": alone, **{str(n): each for n, each in enumerate(shared)}}), "finished", "", 1
    )
    save(home, end)
    assert saved(opened()) == end
    assert sum(map(len, bodies_of(home).values())) < 2 * ALONE + 70 * 1_100 + 20_000


@pytest.mark.parametrize("size", range(ALONE - 30, ALONE + 2))
def test_what_is_kept_alone_has_a_file_of_its_own(opened: Callable[[], Home], size: int) -> None:
    """Whatever its size: when all others go, none of them stays in the file of one that is kept."""
    home, kept, large, others = opened(), RAND(size), RAND(WHOLE), [RAND(1_000) for _ in range(70)]
    save(home, planned(kept, large, *others))
    end = coordinator_state.Ended(course(enrolled={"a": kept, "b": large}), "finished", "", 1)
    save(home, end)
    assert saved(opened()) == end
    assert sum(map(len, bodies_of(home).values())) < WHOLE + ALONE + 20_000


def test_two_processes_take_turns_at_one_run(opened: Callable[[], Home]) -> None:
    home, other, common = opened(), opened(), RAND(WHOLE)
    for number in range(4):
        for each in (home, other):
            save(each, state := planned(common, RAND(WHOLE), bytes([number])))
            with home.transaction() as conn:
                assert home.stands(conn, RUN, state)
                assert not home.stands(conn, RUN, planned(common))
            assert saved(home) == saved(other) == state


def test_a_key_stays_out_of_what_is_shown() -> None:
    body = Body(b"name", 1, 2, RAND(32))
    assert body.key.hex() not in repr(body)
    assert repr(body.key) not in repr(Known(body, None, {b"": body}, {}))
    assert keys.Secret(body.key)


def test_a_round_writes_at_most_twice_what_it_receives_however_many_take_part() -> None:
    (few, of_few), (many, of_many) = one_round(8, 60_000), one_round(12, 60_000)
    assert few <= 2 * of_few
    assert many * of_few <= 1.05 * few * of_many, "nothing grows with the square of the members"
