"""How long a coordinator waits: levels add up, a quorum can open a sum, and whoever must answer is waited for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from securefl.documents import federation_file
from securefl.documents.federation import Loaded
from securefl.documents.patience import PatiencePart
from securefl.errors import OperatorFault, PeerFault
from securefl.planning import explain
from securefl.planning.patience import patience_below, patience_of
from securefl.planning.plan import FirstState, cover_of
from securefl.policy import load as policies
from securefl.protection import schemes
from securefl.protocol import coordinator_state as c
from securefl.protocol.waiting import enough, seconds
from securefl.terms import Patience, Scheme
from securefl.terms.patience import MOST_S, PHASES, QUESTIONS
from tests.support.worlds import MODEL, World

CARRIERS = Path(__file__).parents[2] / "examples" / "carriers" / "federation.yaml"
ROUNDS = st.integers(1, 20)
patiences = st.builds(Patience, **dict.fromkeys(PHASES, st.integers(1, 9_000)))


@given(st.integers(1, 100_000), ROUNDS)
def test_what_is_left_by_a_parent_is_divided_so_that_it_adds_up(have: int, rounds: int) -> None:
    parent = Patience(train_s=have)
    try:
        own = patience_below(parent, None, rounds)
    except PeerFault:
        assert have * 9 // 10 < 20 + 20 * rounds, "there was a second for each phase"
        return
    assert own.run_s(rounds) <= have - have / 10, "a tenth is the node's own"
    assert own.run_s(rounds) <= Patience().run_s(rounds), "never longer than the defaults"


@given(patiences, patiences, ROUNDS)
def test_a_run_that_takes_longer_than_its_parent_waits_is_refused_with_both_numbers(
    parent: Patience, own: Patience, rounds: int
) -> None:
    need = own.join_s + rounds * (own.enrol_s + own.train_s + 2 * own.ask_s) + own.close_s
    if need * 10 <= parent.train_s * 9:
        assert patience_below(parent, own, rounds) == own
    else:
        with pytest.raises(PeerFault, match=f"up to {need} s, and its parent waits {parent.train_s} s"):
            patience_below(parent, own, rounds)


@pytest.mark.parametrize("scheme", Scheme)
def test_no_protection_asks_more_often_than_a_round_has_time_for(scheme: Scheme) -> None:
    assert schemes.coordinator_half(scheme).phases <= QUESTIONS


@pytest.mark.parametrize("value", [-1, MOST_S + 1])
def test_patience_has_a_range(value: int) -> None:
    for name in (*PHASES, "quorum", "grace_s"):
        with pytest.raises(ValueError, match=name):
            replace(Patience(), **{name: value})


def states() -> list[c.State]:
    world = World()
    world.play()
    return [moved.state for _, moved in world.seen]


def with_quorum(state: c.State, quorum: int) -> c.State:
    plan = replace(state.course.plan, patience=replace(state.course.plan.patience, quorum=quorum))
    return replace(state, course=replace(state.course, plan=plan))


@pytest.mark.parametrize("quorum", [0, 1, 3, 4])
def test_a_phase_is_shortened_once_a_quorum_has_answered_and_a_sum_can_be_opened(quorum: int) -> None:
    found = []
    for state in states():
        counted = {c.Enrolling: "enrolled", c.Collecting: "sealed", c.Asking: "answers"}.get(type(state))
        holder = state.course if isinstance(state, c.Enrolling) else state
        answered = 0 if counted is None else len(getattr(holder, counted))
        needed = max(quorum, state.course.need)
        expected = bool(quorum and counted and state.course.unanswered and answered >= needed)
        assert enough(with_quorum(state, quorum)) == expected
        found.append(expected)
    assert any(found) == (quorum in (1, 3)), "where everybody is waited for, nobody is cut short"


def test_a_custodian_is_waited_for_whoever_else_has_answered() -> None:
    world = World(scheme=Scheme.MASKED_BFV)
    world.play()
    asked = [moved.state for _, moved in world.seen if "custodian" in moved.state.course.unanswered]
    assert any(isinstance(state, c.Asking) for state in asked)
    assert not any(enough(with_quorum(state, 1)) for state in asked)


def test_each_phase_has_its_own_time() -> None:
    patience = Patience(1, 2, 3, 4, 5)
    found = {}
    for state in states():
        plan = replace(state.course.plan, patience=patience)
        found[type(state)] = seconds(replace(state, course=replace(state.course, plan=plan)))
    assert found == {c.Inviting: 1, c.Enrolling: 2, c.Collecting: 3, c.Asking: 4, c.Closing: 5, c.Ended: 0}


def carriers(own: dict[str, int] | None = None, legacy: dict[str, int] | None = None) -> Loaded:
    """The example's federation of federations, with other patience."""
    loaded = federation_file.load(CARRIERS)
    below = dict(loaded.below)
    if legacy is not None:
        below["legacy"] = waiting(below["legacy"], legacy)
    return waiting(loaded.model_copy(update={"below": below}), own)


def waiting(loaded: Loaded, patience: dict[str, int] | None) -> Loaded:
    part = None if patience is None else PatiencePart.model_validate(patience)
    return loaded.model_copy(update={"file": loaded.file.model_copy(update={"patience": part})})


def planned(loaded: Loaded) -> Patience:
    policy = policies.load(loaded.folder / loaded.file.policy)
    return patience_of(loaded, cover_of(loaded, policy, None))


def test_a_document_says_how_long_and_levels_add_up_by_themselves() -> None:
    assert planned(carriers()) == Patience()
    assert planned(carriers({"train": 100, "quorum": 2, "grace": 5})) == Patience(train_s=100, quorum=2, grace_s=5)


def test_a_document_whose_levels_do_not_add_up_is_refused_with_numbers_and_the_remedy_mends_it() -> None:
    with pytest.raises(OperatorFault, match=r"take up to (\d+) s, and its parent waits 3600 s") as caught:
        planned(carriers(None, {"train": 3600}))
    told = str(caught.value)
    least = int(told.partition("{train: ")[2].partition("}")[0])
    assert "members.legacy" in caught.value.place
    assert planned(carriers({"train": least}, {"train": 3600})).train_s == least
    with pytest.raises(OperatorFault, match=f"waits {least - 1} s"):
        planned(carriers({"train": least - 1}, {"train": 3600}))


def test_explain_says_how_long_a_round_may_take() -> None:
    policy, loaded = policies.load(CARRIERS.parent / "carriers.policy.yaml"), carriers({"quorum": 2, "train": 100})
    row = explain.explained(policy, explain.first_plan(loaded, policy, FirstState(MODEL, 1)), ()).checks[-1]
    assert (row.rule, row.held) == ("site.patience", True)
    assert row.value == "up to 1900 s for a round; once 2 members answered, 60 s more for the others"


@pytest.mark.parametrize("quorum", [1, 3])
def test_a_quorum_that_opens_no_sum_or_that_nobody_reaches_is_refused_with_numbers(quorum: int) -> None:
    with pytest.raises(OperatorFault, match=f"a quorum of {quorum}, where a sum needs 2 of 2 members; write 2 to 2"):
        planned(carriers({"quorum": quorum}))
