"""WorldLM-style federations: attention through sums is attention in the open, whoever falls silent, and reads states alone."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.errors import Forged, Malformed, Unsafe
from securefl.protection import ckks_slots
from securefl.protection.encrypted import check_bounds
from securefl.protection.enrolments import check_cover
from securefl.seams import MemberHalf, Strategy
from securefl.strategy import worldlm
from securefl.strategy.fedadam import FedAdam
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.member import MemberStrategy
from securefl.strategy.worldlm import AttentionServer
from securefl.terms import Aggregate, Attention, MemberId, Scheme, Sharing, Weighting
from tests.policy.test_policy_decide import PLAN, question
from tests.strategy.test_strategy import ENCODING, GRID, OPTIMIZERS, Server, need, opened
from tests.support.decoded import traced
from tests.support.nested import LAYOUT, trained

ORIGIN = np.random.default_rng(7).normal(0, 0.3, LAYOUT.entries).astype("<f4")
ATTENTIONS = {
    "one sum": Attention(("l0",), F(5), F(1, 10)),
    "with a residual": Attention(("l0",), F(3), F(1, 10), residual=True),
    "two keys": Attention(("l0", "bias"), F(5), F(1, 10), residual=True),
    "a mean": Attention(("l0",), F(0), F(1)),
}


def cos(a: np.ndarray, b: np.ndarray) -> float:
    size = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / size) if size > 0 else 0.0


class Reference:
    """The same over members in the open: a softmax of clipped cosines, the coordinator's own tensor among them."""

    def __init__(self, optimizer: object, attention: Attention) -> None:
        self.attention, self.state = attention, ORIGIN.astype(float)
        self.server = Server(optimizer, self.state)
        self.keys = LAYOUT.keys(attention)
        self.residual = self.state.copy()
        self.own: dict[MemberId, np.ndarray] = {}

    def score(self, key: slice, a: np.ndarray, b: np.ndarray) -> float:
        clip = float(self.attention.clip)
        start = ORIGIN[key].astype(float)
        return float(np.clip(float(self.attention.sharpness) * cos(a - start, b - start), -clip, clip))

    def start(self, name: MemberId) -> np.ndarray:
        made = self.state.copy()
        for key in self.keys if name in self.own else ():
            own = self.own[name][key]
            given_ = [own, self.state[key], *([self.residual[key]] if self.attention.residual else [])]
            weights = np.exp([self.score(key, own, each) for each in given_])
            made[key] = weights @ np.array(given_) / weights.sum()
        return made

    def close(self, after: dict[MemberId, np.ndarray], scores: object = None) -> None:
        del scores  # attention makes its own
        fresh = {name: after[name] - self.start(name).astype("<f4").astype(float) for name in after}
        moved = self.state + self.server.step(self.state, np.mean(list(fresh.values()), axis=0))
        for key in self.keys:
            now = self.state[key]
            scores = np.array([self.score(key, now + each[key], now) for each in fresh.values()])
            candidates = now + np.array([np.zeros_like(now), *(each[key] for each in fresh.values())])
            weights = np.exp([self.score(key, now, now), *scores])
            moved[key] = weights @ candidates / weights.sum()
            self.residual[key] = np.exp(-scores) @ candidates[1:] / np.exp(-scores).sum()
        self.state = moved


def bound(attention: Attention, round_: int) -> float:
    """Half a step of the grid over a weight of exp(-2 clip) at the least; an error moves the next round's cosines."""
    return GRID * math.exp(2 * float(attention.clip)) * (1 + 2 * float(attention.sharpness)) ** (round_ - 1)


def check(scheme: Scheme, optimizer: str, attention: Attention, members: int, draw) -> None:
    """Three rounds, in each of which some members fall silent; nothing but a sum over the others is decoded."""
    names = [MemberId(f"m{n}") for n in range(members)]
    sharing = Sharing(attention=attention)
    least = need(sharing, members)
    strategy: Strategy = AttentionServer(LAYOUT, OPTIMIZERS[optimizer], attention, ORIGIN.tobytes())
    half: MemberHalf = MemberStrategy(LAYOUT, ORIGIN.tobytes())
    reference = Reference(OPTIMIZERS[optimizer], attention)
    state = worldlm.broadcast(LAYOUT, attention, ORIGIN.tobytes())
    memory = strategy.begin(state)
    own: dict[MemberId, bytes] = {}
    for round_ in (1, 2, 3):
        alive = draw(names, least)
        after = {}

        def sent(name, plan, now=state, after=after):
            assert plan.dimension == strategy.dimension(plan.round, now)
            begun = half.start(plan, now, own.get(name, b""))
            after[name] = trained(name, plan.round, np.frombuffer(begun, "<f4")).tobytes()
            return half.share(plan, now, begun, after[name], ())

        with traced() as trace:
            aggregate = opened(scheme, names, alive, round_, sharing, sent)
        (plan,) = trace.check()
        assert (plan.round, aggregate.survivors) == (round_, tuple(alive))
        plain = {n: trained(n, round_, reference.start(n).astype("<f4")).astype(float) for n in alive}
        reference.close(plain)
        reference.own |= plain
        own |= after
        state, memory = strategy.advance(round_, state, memory, aggregate)
        model = np.frombuffer(state, "<f4")[: LAYOUT.entries]
        assert np.abs(model - reference.state).max() <= bound(attention, round_)
        left = np.frombuffer(state, "<f4")[LAYOUT.entries :]
        expected = [reference.residual[key] for key in reference.keys] if attention.residual else [np.zeros(0)]
        assert np.abs(left - np.concatenate(expected)).max(initial=0) <= bound(attention, round_)


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheme", [Scheme.CLEAR, Scheme.MASKING])
def test_attention_through_sums_is_attention_in_the_open(scheme, optimizer, attention) -> None:
    @given(st.integers(5, 7), st.data())
    @settings(max_examples=4, deadline=None)
    def law(members, data):
        def draw(names, need):
            order = data.draw(st.permutations(names))
            return sorted(order[: data.draw(st.integers(need, members))])

        check(scheme, optimizer, ATTENTIONS[attention], members, draw)

    law()


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_under_encryption_too(optimizer, attention) -> None:
    rand = np.random.default_rng(5)

    def draw(names, need):
        alive = rand.permutation(names)[: rand.integers(need, len(names) + 1)]
        return sorted(MemberId(str(n)) for n in alive)

    check(Scheme.CKKS, optimizer, ATTENTIONS[attention], 6, draw)


def test_nothing_but_states_is_read() -> None:
    """Scores cost no budget because these functions are given states and public constants, and nothing else."""
    for function in (worldlm.sent, worldlm.mixed):
        assert set(inspect.signature(function).parameters) <= {
            "layout", "attention", "origin", "base", "begun", "after", "kept",
        }  # fmt: skip
    plan = replace(question(plan=PLAN).plan, sharing=Sharing(attention=ATTENTIONS["two keys"]))
    half, base = (
        MemberStrategy(LAYOUT, ORIGIN.tobytes()),
        worldlm.broadcast(LAYOUT, ATTENTIONS["two keys"], ORIGIN.tobytes()),
    )
    after = trained(MemberId("m1"), 1, ORIGIN).tobytes()
    shared = [half.share(plan, base, ORIGIN.tobytes(), after, own) for own in ((), (0.3,), (math.nan,))]
    assert all(np.array_equal(each, shared[0]) for each in shared)  # weights of scores would be the only other thing


def test_a_vector_without_direction_has_cosine_zero() -> None:
    zero, some = np.zeros(4), np.arange(4.0)
    assert worldlm.cosine(zero, some) == worldlm.cosine(some, zero) == worldlm.cosine(zero, zero) == 0
    assert worldlm.cosine(some, np.full(4, math.nan)) == worldlm.cosine(some, np.full(4, math.inf)) == 0
    assert worldlm.cosine(some, 1e-300 * some) == pytest.approx(1)


@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3), st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3))
@settings(deadline=None)
def test_a_weight_is_within_its_clip_whatever_a_member_trained(a, b) -> None:
    attention = Attention(("l0",), F(100), F(2))
    assert abs(worldlm.score(attention, np.array(a), np.array(b))) <= 2


def test_the_first_round_is_a_mean_over_members_and_the_start() -> None:
    attention = ATTENTIONS["one sum"]
    strategy = AttentionServer(LAYOUT, FedAvg(), attention, ORIGIN.tobytes())
    half, plan = MemberStrategy(LAYOUT, ORIGIN.tobytes()), question(plan=PLAN).plan
    plan = replace(plan, sharing=Sharing(attention=attention))
    after = [trained(MemberId(f"m{n}"), 1, ORIGIN) for n in range(3)]
    total = sum(
        np.rint(half.share(plan, ORIGIN.tobytes(), ORIGIN.tobytes(), each.tobytes(), ()) / GRID) for each in after
    )
    aggregate = Aggregate(total.astype(np.int64), tuple(MemberId(f"m{n}") for n in range(3)), ENCODING)
    state = np.frombuffer(strategy.advance(1, ORIGIN.tobytes(), strategy.begin(ORIGIN.tobytes()), aggregate)[0], "<f4")
    (key,) = LAYOUT.keys(attention)
    assert np.abs(state[key] - np.mean([ORIGIN, *after], axis=0)[key]).max() < 1e-3
    assert np.abs(np.delete(state, key) - np.delete(np.mean(after, axis=0), key)).max() < 1e-5


def test_a_residual_needs_one_honest_member_more() -> None:
    for residual, members, allowed in ((False, 3, False), (False, 4, True), (True, 4, False), (True, 5, True)):
        asked = question(plan={**PLAN, "members": members, "min_cohort": members, "colluding": 1, "threshold": members})
        sharing = Sharing(attention=Attention(("l0",), F(5), F(1, 100), residual))
        plan = replace(asked.plan, sharing=sharing)
        assert ("protection.honest" not in replace(asked, plan=plan).rules()) == allowed
        if not allowed:
            masked = replace(plan, cover=replace(plan.cover, scheme=Scheme.MASKING))
            with pytest.raises(Unsafe, match="colluding"):
                check_cover(masked)
            with pytest.raises(Unsafe, match="colluding"):
                check_bounds(masked, ckks_slots)


def test_weights_no_honest_members_have_are_refused() -> None:
    attention = ATTENTIONS["one sum"]
    strategy = AttentionServer(LAYOUT, FedAvg(), attention, ORIGIN.tobytes())
    for denominator in (0.0, -1.0, 1e-5, 3.5):
        total = np.zeros(strategy.dimension(1, b""), np.int64)
        total[-1] = round(denominator / GRID)
        aggregate = Aggregate(total, tuple(MemberId(f"m{n}") for n in range(3)), ENCODING)
        with pytest.raises(Forged, match="add up to"):
            strategy.advance(1, ORIGIN.tobytes(), strategy.begin(ORIGIN.tobytes()), aggregate)


def test_states_of_another_length_are_refused() -> None:
    attention, state = ATTENTIONS["with a residual"], ORIGIN.tobytes()
    with pytest.raises(Malformed):
        worldlm.mixed(LAYOUT, attention, state, state, b"")  # the residual is missing
    with pytest.raises(Malformed):
        worldlm.mixed(LAYOUT, attention, state, worldlm.broadcast(LAYOUT, attention, state), state[4:])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="no tensor has l1"):
        AttentionServer(LAYOUT, FedAvg(), Attention(("l1",), F(5), F(4)))
    with pytest.raises(ValueError, match="no backbone"):
        AttentionServer(LAYOUT, FedAdam(), Attention(("l0", "head"), F(5), F(4)))
    with pytest.raises(ValueError, match="attention with"):
        Sharing((Weighting(F(1), F(1)),), attention=Attention(("l0",), F(5), F(4)))
    for keys, sharpness, clip in (((), 5, 4), (("l0",), -1, 4), (("l0",), 5, 5), (("l0",), 5, 0)):
        with pytest.raises(ValueError, match="no attention"):
            Attention(keys, F(sharpness), F(clip))
