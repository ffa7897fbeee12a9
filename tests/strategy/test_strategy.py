"""Every strategy under every protection: the state a plaintext reference gives, to the grid; and how many sums are safe."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import keys
from securefl.errors import Forged, Unsafe
from securefl.protection import ckks_slots, fixed_point, schemes
from securefl.protection.encrypted import check_bounds
from securefl.protection.enrolments import check_cover
from securefl.protection.honest_count import largest_ratio
from securefl.protocol import coordinator_state
from securefl.seams import Strategy
from securefl.strategy import weights
from securefl.strategy.fedadam import FedAdam
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.fednesterov import FedNesterov
from securefl.strategy.member import MemberStrategy
from securefl.strategy.rules import FactorServer
from securefl.terms import (
    Aggregate,
    Envelope,
    FixedPoint,
    Hash,
    MemberId,
    Receipt,
    Scheme,
    Sharing,
    Update,
    Weighting,
)
from securefl.terms.uploads import upload_of
from tests.policy.test_policy_decide import PLAN, question
from tests.protection.test_protection import secret
from tests.support.decoded import traced
from tests.support.nested import LAYOUT, trained
from tests.support.sums import sum_of
from tests.support.worlds import EVENT, World, identity, seat

HEAD = 8  # the first entries
OPTIMIZERS = {
    "fedavg": FedAvg(F(1), F(1, 2)),
    "fedadam": FedAdam(F(1, 20), floor=F(1, 20)),
    "fednesterov": FedNesterov(F(1), F(1, 2)),
}
CLIP = F(1, 10)  # two weights differ by 1.22 at most: three honest members count as two
SHARINGS = {
    "all of it": Sharing(),
    "weighted": Sharing((Weighting(F(3), CLIP),)),
    "two weighted": Sharing((Weighting(F(3), CLIP, F(3, 4)), Weighting(F(-3), CLIP, F(1, 4)))),
    "fedper": Sharing(home=("head",)),
    "l2gd": Sharing(pull=F(1, 3)),
    "fewfedweight": Sharing((Weighting(F(3), CLIP, renewal=F(1, 2)),), pull=F(0)),
    "all at once": Sharing((Weighting(F(3), CLIP),), ("head",), F(1, 3)),
}
ENCODING = FixedPoint(24, 20, 32)
GRID = 2.0**-20


class Server:
    """The optimizers in plain numbers."""

    def __init__(self, optimizer: object, state: np.ndarray) -> None:
        self.optimizer, self.before = optimizer, state
        self.first = np.zeros_like(state)
        self.second = np.full_like(state, 1 / 400)

    def step(self, now: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """Where a mean change takes a state."""
        of, before, self.before = self.optimizer, self.before, now
        if isinstance(of, FedAvg):
            return mean + (now - before) / 2
        if isinstance(of, FedNesterov):
            self.first = self.first / 2 + mean
            return mean + self.first / 2
        self.first = 0.9 * self.first + 0.1 * mean
        self.second = 0.99 * self.second + 0.01 * mean**2
        return 0.05 * self.first / (np.sqrt(self.second) + 0.05)


class Reference:
    """The same in plain numbers: every member's vector in the open, float64, no grid."""

    def __init__(self, optimizer: object, sharing: Sharing, state: np.ndarray) -> None:
        self.server, self.sharing, self.state = Server(optimizer, state), sharing, state
        self.shared = slice(HEAD, None) if sharing.home else slice(None)
        self.own: dict[MemberId, np.ndarray] = {}
        self.weights: dict[MemberId, list[float]] = {}

    def start(self, name: MemberId) -> np.ndarray:
        if name not in self.own or not self.sharing.keeps:
            return self.state
        pull = 1 if self.sharing.pull is None else float(self.sharing.pull)
        made = self.own[name] + pull * (self.state - self.own[name])
        if self.sharing.home:
            made[:HEAD] = self.own[name][:HEAD]
        return made

    def close(self, after: dict[MemberId, np.ndarray], scores: dict[MemberId, float]) -> None:
        changes = {name: after[name] - self.start(name) for name in after}
        names = list(after)
        if self.sharing.weightings:
            mean = np.zeros_like(self.state)
            for number, each in enumerate(self.sharing.weightings):
                clip, mu = float(each.clip), float(each.renewal)
                for n in names:
                    own = self.weights.setdefault(n, [1.0] * len(self.sharing.weightings))
                    new = np.exp(np.clip(float(each.sharpness) * scores[n], -clip, clip)) / np.exp(clip)
                    own[number] = (1 - mu) * own[number] + mu * new
                total = sum(self.weights[n][number] for n in names)
                mean += float(each.share) * sum(self.weights[n][number] / total * changes[n] for n in names)
        else:
            mean = np.mean([changes[n] for n in names], axis=0)
        now = self.state
        self.state = now.copy()
        self.state[self.shared] += self.server.step(now, mean)[self.shared]


HOLDER = schemes.key_holder(Scheme.CKKS, identity("custodian"))
OPENS = keys.Secret(bytes(range(32)))  # the custodian's box


def need(sharing: Sharing, members: int) -> int:
    """The least cohort that holds enough honest inputs; all of it where weights are kept."""
    if not upload_of(sharing).is_fresh:
        return members
    return 1 + math.ceil((sharing.sums + 1) * (largest_ratio(sharing) + F(1, 1000)))


def opened(
    scheme: Scheme, names: list[MemberId], alive: list[MemberId], round_: int, sharing: Sharing, sent
) -> Aggregate:
    """One round under a scheme; who is not alive falls silent once it has enrolled."""
    plan = World().coordinator.state.course.plan
    custodian = identity("custodian").public if scheme is Scheme.CKKS else None
    threshold = (len(names) + 1) // 2 + 1
    cover = replace(
        plan.cover, scheme=scheme, threshold=threshold, min_cohort=need(sharing, len(names)), colluding=1, encoding=ENCODING,
        custodian=custodian,
    )  # fmt: skip
    plan = replace(
        plan, round=round_, cohort=tuple(seat(n) for n in names), cover=cover, sharing=sharing,
        dimension=LAYOUT.dimension(round_, sharing),
    )  # fmt: skip
    member, coordinator = schemes.member_half(scheme), schemes.coordinator_half(scheme)
    material = HOLDER.material(keys.public_half(OPENS), identity("custodian")) if custodian else b""
    box = {n: secret(f"box {n}") for n in names}
    boxes = {n: keys.public_half(box[n]) for n in names}
    made = {
        n: member.enrol(n, plan.run, round_, threshold, boxes, identity(n), secret(f"enrol {n} {round_}"))
        for n in names
    }
    enrolled = {n: made[n].public for n in names}
    relayed = coordinator.relay(tuple(names), enrolled)
    sealed, kept = {}, {}
    for n in alive:
        update = Update(sent(n, plan), EVENT)
        sealed[n], kept[n] = member.seal(
            n, plan, box[n], made[n].secret, relayed.get(n, b""), material, update, secret(f"seal {n} {round_}")
        )
    if scheme is Scheme.CKKS:
        answers = {MemberId("custodian"): HOLDER.open_sum(HOLDER.prepare(plan, OPENS, sealed, {}, {}))}
    else:
        receipt = Receipt(MemberId("c"), MemberId("c"), plan.run, round_, "Submitted", None, 0, Hash(b""), 0)
        questions = coordinator.ask(
            0, plan, enrolled, {n: Envelope(replace(receipt, sender=n), b"", b"") for n in alive}, {}
        )
        answers = {n: member.answer(n, plan, kept[n], question) for n, question in questions.items()}
    return sum_of(coordinator, plan, enrolled, sealed, answers)


def check(scheme: Scheme, optimizer: str, sharing: Sharing, members: int, draw) -> None:
    """Three rounds, in each of which some members fall silent; nothing but a sum over the others is decoded."""
    names = [MemberId(f"m{n}") for n in range(members)]
    least = max((members + 1) // 2 + 1, need(sharing, members))
    start = np.random.default_rng(members).normal(0, 0.3, LAYOUT.entries).astype("<f4")
    strategy: Strategy = FactorServer(LAYOUT, OPTIMIZERS[optimizer], sharing)
    reference, half = Reference(OPTIMIZERS[optimizer], sharing, start.astype(float)), MemberStrategy(LAYOUT)
    state, memory = start.tobytes(), strategy.begin(start.tobytes())
    own: dict[MemberId, bytes] = {}
    remembered: dict[MemberId, bytes] = {}
    for round_ in (1, 2, 3):
        alive, scores = draw(names, least)
        after = {}

        def sent(name, plan, now=state, scores=scores, after=after):
            begun = half.start(plan, now, own.get(name, b""))
            after[name] = trained(name, plan.round, np.frombuffer(begun, "<f4")).tobytes()
            mine = half.weights(plan, (scores[name],) * len(sharing.weightings), remembered.get(name, b""))
            remembered[name] = struct.pack(f"<{len(mine)}d", *mine)
            return half.share(plan, now, begun, after[name], mine)

        with traced() as trace:
            aggregate = opened(scheme, names, alive, round_, sharing, sent)
        (plan,) = trace.check()
        assert (plan.round, aggregate.survivors) == (round_, tuple(alive))
        plain = {n: trained(n, round_, reference.start(n).astype("<f4")).astype(float) for n in alive}
        reference.close(plain, scores)
        reference.own |= plain
        own |= after
        state, memory = strategy.advance(round_, state, memory, aggregate)
        # a mean is off by half a step of the grid, and by that over a weight of exp(-4) at the least; rounds add up
        bound = 3 * round_ * (math.exp(4) if sharing.weightings else 1) * GRID
        assert np.abs(np.frombuffer(state, "<f4") - reference.state).max() <= bound


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheme", [Scheme.CLEAR, Scheme.MASKING])
def test_the_state_is_the_plain_references_whoever_falls_silent(scheme, optimizer, sharing) -> None:
    @given(st.integers(5, 7), st.data())
    @settings(max_examples=8, deadline=None)
    def law(members, data):
        def draw(names, need):
            order = data.draw(st.permutations(names))
            scores = {n: data.draw(st.floats(0, 1)) for n in names}
            return sorted(order[: data.draw(st.integers(need, members))]), scores

        check(scheme, optimizer, SHARINGS[sharing], members, draw)

    law()


@pytest.mark.parametrize("sharing", SHARINGS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_under_encryption_too(optimizer, sharing) -> None:
    rand = np.random.default_rng(5)

    def draw(names, need):
        alive = rand.permutation(names)[: rand.integers(need, len(names) + 1)]
        return sorted(MemberId(str(n)) for n in alive), dict(zip(names, rand.random(len(names)), strict=True))

    check(Scheme.CKKS, optimizer, SHARINGS[sharing], 5, draw)


def summed(vectors: list[np.ndarray]) -> Aggregate:
    total = sum(fixed_point.encode(each, ENCODING) for each in vectors)
    return Aggregate(total, tuple(MemberId(str(n)) for n in range(len(vectors))), ENCODING)


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=9), st.floats(0.01, 4), st.floats(-50, 50))
@settings(deadline=None)
def test_weights_are_a_softmax_of_clipped_scores(scores, clip, sharpness) -> None:
    weighting = Weighting(F(sharpness), F(clip))
    changes = [np.random.default_rng(n).normal(0, 1, 5) for n in range(len(scores))]
    got = weights.mean(
        (weighting,),
        summed([weights.weighted((weights.weight(weighting, s),), x) for x, s in zip(changes, scores, strict=True)]),
    )
    s = np.clip(np.array(scores) * sharpness, -clip, clip)
    expected = (np.exp(s) / np.exp(s).sum()) @ np.array(changes)
    assert np.abs(got - expected).max() <= 20 * GRID * math.exp(2 * clip)


@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=9), st.floats(0.01, 4), st.floats(0.01, 1), st.floats())
@settings(deadline=None)
def test_a_remembered_weight_is_a_moving_average_and_never_leaves_its_bounds(scores, clip, renewal, before) -> None:
    weighting = Weighting(F(7), F(clip), renewal=F(renewal))
    least, now = math.exp(-2 * clip), before
    for score in scores:
        now = weights.renewed(weighting, score, now)
        assert least * (1 - 1e-9) <= now <= 1 + 1e-9
    first, hat = weights.renewed(weighting, 0.1), weights.weight(weighting, 0.1)
    assert first == pytest.approx((1 - renewal) + renewal * hat)
    assert weights.renewed(weighting, 0.2, first) == pytest.approx(
        (1 - renewal) * first + renewal * weights.weight(weighting, 0.2)
    )


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_no_number_counts_as_none(score) -> None:
    weighting = Weighting(F(1), F(2))
    assert weights.weight(weighting, score) == weights.weight(weighting, 0.0)


@pytest.mark.parametrize("denominator", [0.0, -1.0, 1e-6, 3.5])
def test_weights_no_honest_members_have_are_refused(denominator) -> None:
    weighting = Weighting(F(1), F(2))
    vectors = [np.append(np.ones(4), denominator), *[np.zeros(5)] * 2]
    with pytest.raises(Forged, match="add up to"):
        weights.mean((weighting,), summed(vectors))


def test_a_sum_nothing_can_be_made_of_ends_the_run_cleanly() -> None:
    world = World()

    class Refusing(FedAvg):
        def advance(self, round_, state, memory, aggregate):
            raise Forged("weights of nobody")

    world.coordinator_plugs = replace(world.coordinator_plugs, strategy=Refusing())
    end = world.play(coordinator_state.Started())
    assert isinstance(end, coordinator_state.Ended)
    assert end.outcome == "aborted"
    assert end.why.endswith("protocol.forged: a signature, key or digest does not match")
    assert "weights of nobody" not in end.why


# How many sums are safe.


def collusion(children: int, known: int, sums: int) -> float:
    """How far off a parent that knows ``known`` children's vectors, and all weights, is about the others' after ``sums``."""
    rand = np.random.default_rng(3)
    vectors, weight = rand.normal(0, 1, (children, 6)), rand.random((sums, children)) + 0.1
    released = weight @ vectors
    left = released - weight[:, :known] @ vectors[:known]
    found = np.linalg.pinv(weight[:, known:]) @ left
    return float(np.abs(found - vectors[known:]).max())


@pytest.mark.parametrize(("children", "sums"), [(3, 2), (4, 2), (4, 3), (5, 3), (3, 1), (5, 4)])
def test_a_round_from_which_colluders_could_solve_for_the_others_is_refused(children, sums) -> None:
    solvable = collusion(children, 1, sums) < 1e-9
    assert solvable == (children - 1 <= sums)
    asked = question(plan={**PLAN, "members": children, "min_cohort": children, "colluding": 1, "threshold": children})
    sharing = Sharing(tuple(Weighting(F(n), F(1, 1000)) for n in range(1, sums + 1)))
    plan = replace(asked.plan, sharing=sharing)
    assert ("protection.honest" in replace(asked, plan=plan).rules()) == (children - 1 < (sums + 1) * 1.003)
    assert not solvable or "protection.honest" in replace(asked, plan=plan).rules()
    if solvable:
        masked = replace(plan, cover=replace(plan.cover, scheme=Scheme.MASKING))
        with pytest.raises(Unsafe, match="colluding"):
            check_cover(masked)
        with pytest.raises(Unsafe, match="colluding"):
            check_bounds(masked, ckks_slots)


def test_three_children_two_sums_and_their_weights_give_a_parent_the_other_two_and_are_refused() -> None:
    """Attention and its opposite over the same updates: with one child's help the weights themselves can be solved for."""
    both = (Weighting(F(2), F(2)), Weighting(F(-2), F(2)))
    vectors, scores = np.random.default_rng(7).normal(0, 1, (3, 6)), (0.9, 0.2, 0.5)
    own = [[weights.weight(each, s) for each in both] for s in scores]
    sums = sum(weights.weighted(tuple(a), x) for a, x in zip(own, vectors, strict=True)).reshape(2, 7)
    left = sums - weights.weighted(tuple(own[0]), vectors[0]).reshape(2, 7)  # the child that helps takes itself off
    total, opposite, product = left[0, -1], left[1, -1], math.exp(-4)  # a + a', p / a + p / a', p
    both_times = product * total / opposite  # a * a'
    root = math.sqrt(total**2 - 4 * both_times)
    first = np.array([(total - root) / 2, (total + root) / 2])
    found = np.linalg.solve(np.array([first, product / first]), left[:, :-1])
    assert np.abs(found - vectors[1:]).max() < 1e-9

    asked = question(plan={**PLAN, "members": 3, "min_cohort": 3, "colluding": 1, "threshold": 3})
    plan = replace(asked.plan, sharing=Sharing(both))
    assert "protection.honest" in replace(asked, plan=plan).rules()
    near = Sharing(tuple(replace(each, clip=F(1, 10)) for each in both))
    others = tuple(seat(MemberId(f"m{n}")) for n in (8, 9))
    four = replace(plan, sharing=near, cohort=(*plan.cohort, *others), cover=replace(plan.cover, min_cohort=5))
    assert "protection.honest" not in replace(asked, plan=four).rules()


@pytest.mark.parametrize("name", SHARINGS)
def test_an_update_whose_norm_is_priced_is_shared_whole(name) -> None:
    asked = question(plan={**PLAN, "unit": "client", "fraction_bits": 14})
    plan = replace(asked.plan, sharing=SHARINGS[name])
    assert ("protection.shared_whole" in replace(asked, plan=plan).rules()) == (name != "all of it")
