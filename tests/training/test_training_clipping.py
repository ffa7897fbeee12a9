"""Three ways to bound one record: what each keeps, what the second sum of a step costs, and what memory it takes."""

import math
import os
import re
from dataclasses import fields, replace
from fractions import Fraction

import dp_accounting
import numpy as np
import pytest
import torch
from dp_accounting import pld
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl import wire
from securefl.documents import federation_file, strict
from securefl.errors import Malformed, OperatorFault
from securefl.planning import explain
from securefl.policy.plan_document import draft
from securefl.privacy.accountant import epsilon_pld
from securefl.terms import Automatic, Flat, Hash, Learning, PoissonGaussian, Quantile, Update
from securefl.terms.records import Record
from securefl.training import adapter_tensors, step
from securefl.training.clipping import COLUMNS, LOWEST, SHRINK, _squares, read, shares, unit, weigh_by
from securefl.training.noise import ClippedSum, NoisedSum, noised, repeatable
from securefl.training.shapes import ALONE, ANY, Shapes
from tests.policy.test_policy_oracle import PLAN, changed
from tests.support.small import FEDERATION, Small
from tests.support.tiny_models import F, plan, shared

MODES = {
    "flat": Flat(),
    "automatic": Automatic(F(1, 100)),
    "quantile": Quantile(F(1, 2), F(1, 5), F(2)),
}
every_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)

NOISES = st.fractions(min_value=F(1, 10), max_value=20)
OVER = st.fractions(min_value=F(102, 100), max_value=1000)  # how far above half the noise multiplier a count's noise is
ROWS = st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=1, max_size=6)
CLIPS = st.fractions(min_value=F(1, 10**6), max_value=10**6)


def learning(mode, noise=F(1), clip=F(1), divisor=10, **changes) -> Learning:
    made = Learning(PoissonGaussian(F(1, 2), noise, 3), clip, divisor, F(1, 2), "sgd", 32, 4, mode)
    return replace(made, **changes)


def quantile(noise, over, target=F(1, 2), rate=F(1, 5)) -> Quantile:
    return Quantile(target, rate, noise / 2 * over)


# What a record can do to a step.


@given(ROWS, CLIPS, NOISES, OVER, st.sampled_from(list(MODES)))
@settings(max_examples=200, deadline=None)
def test_all_that_a_record_contributes_is_within_the_clip(rows, clip, noise, over, mode):
    rule = quantile(noise, over) if mode == "quantile" else MODES[mode]
    for row in rows:
        both = step.clipped([torch.tensor([row])], float(clip), weigh_by(learning(rule, noise, clip)))
        assert len(both) == 3 + (mode == "quantile")
        assert F(float(np.linalg.norm(both.numpy()))) <= clip


@given(ROWS, CLIPS, st.fractions(min_value=F(1, 10**9), max_value=10**9))
@settings(max_examples=100, deadline=None)
def test_a_normalised_gradient_keeps_its_direction_and_stays_below_the_clip(rows, clip, gamma):
    weigh = weigh_by(learning(Automatic(gamma), clip=clip))
    for row in rows:
        whole = np.array(row, dtype=float)
        norm = float(np.linalg.norm(whole))
        out = step.clipped([torch.tensor([row])], float(clip), weigh).numpy()
        assert F(float(np.linalg.norm(out))) < clip
        assert np.allclose(out, whole * float(clip) / (norm + float(gamma)), rtol=1e-6, atol=unit(float(clip)))


def test_a_clip_of_its_own_is_what_a_quantile_counts_against():
    rule = learning(MODES["quantile"])
    count, rest = shares(rule)
    rows = [torch.tensor([[0.3], [0.8], [2.0]])]
    out = step.clipped(rows, 1.0, weigh_by(rule)).numpy()
    assert out == pytest.approx([(0.3 + 0.8 + 1.0) * rest, (2 - 1) * count], rel=1e-6)
    assert step.clipped(rows, 0.5, weigh_by(rule)).numpy()[-1] == pytest.approx((1 - 2) * count * 0.5, rel=1e-6)


@every_mode
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_one_gradient_that_is_not_finite_contributes_nothing_in_any_mode(mode, poison):
    weigh = weigh_by(learning(mode))
    good, bad = torch.tensor([[0.1, 0.2, 0.2]]), torch.tensor([[0.1, poison, 0.0]])
    with_it = step.clipped([torch.cat([good, bad])], 1.0, weigh)
    assert torch.equal(with_it, step.clipped([good], 1.0, weigh))
    assert torch.equal(step.clipped([torch.cat([bad, bad])], 1.0, weigh), torch.zeros(len(with_it)).double())


def test_the_length_of_a_long_row_is_not_understated_by_more_than_the_clip_allows_for():
    """Each square of the many is less than half the last bit of what stands in its column: one by one, all are lost."""
    first, small = torch.zeros(1, COLUMNS), torch.zeros(1, COLUMNS)
    first[0, 0], small[0, 0] = 1.0, 1.05e-8
    rows = [first, *[small] * (2**25 // COLUMNS - 1)]
    said = F(float(torch.sqrt(_squares(rows))))
    squared = sum(F(float(row[0, 0])) ** 2 for row in (first, small)) + F(float(small[0, 0])) ** 2 * (len(rows) - 2)
    assert (said * F(SHRINK) ** -1) ** 2 > squared


# Two sums for the price of one.


@given(NOISES, OVER)
@settings(max_examples=200, deadline=None)
def test_gradient_and_count_together_are_never_cheaper_noise_than_the_events(noise, over):
    """Andrew et al. (2021), theorem 1: z^-2 = z_g^-2 + (2 sigma_b)^-2."""
    rule = learning(quantile(noise, over), noise)
    silent = NoisedSum(np.zeros(4))
    z_gradient = read(rule, F(1), silent).deviation * rule.divisor
    z_count = 2 * float(rule.clipping.count_noise)
    formula = (float(noise) ** -2 - z_count**-2) ** -0.5
    assert z_gradient == pytest.approx(formula, rel=1e-9)
    assert z_gradient > float(noise)
    assert z_gradient**-2 + z_count**-2 <= float(noise) ** -2 * (1 + 1e-12)


@pytest.mark.parametrize(("noise", "count_noise"), [(F(1), F(5)), (F(1), F(6, 10)), (F(8, 10), F(1))])
def test_the_accountant_finds_the_two_together_no_dearer_than_the_event(noise, count_noise):
    rule = learning(Quantile(F(1, 2), F(1, 5), count_noise), noise)
    event = replace(rule.event, sampling_rate=F(1))
    together = pld.PLDAccountant(
        dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-4
    )
    gradient = read(rule, F(1), NoisedSum(np.zeros(2))).deviation * rule.divisor
    for multiplier in (gradient, 2 * float(count_noise)):
        together.compose(dp_accounting.GaussianDpEvent(multiplier), event.steps)
    assert together.get_epsilon(1e-5) <= epsilon_pld((event,), 1e-5) * (1 + 1e-4)


def test_the_noise_on_gradient_and_count_is_what_the_formula_says():
    rule = learning(Quantile(F(1, 2), F(1), F(3, 4)), F(1), clip=F(1, 4), divisor=1)
    drawn = [
        read(rule, F(1, 4), noised(ClippedSum(np.zeros(41), F(1, 4)), rule.event, repeatable(f"both {i}")))
        for i in range(3000)
    ]
    gradients = np.concatenate([each.values for each in drawn])
    assert gradients.std() == pytest.approx((1 - (4 / 9)) ** -0.5 / 4, rel=0.012)
    assert drawn[0].deviation == pytest.approx((1 - (4 / 9)) ** -0.5 / 4)
    # the clip moves by exp(-(0.5 + count - 0.5)), and only down from the top: half of a normal of deviation 3/4
    moved = np.log([float(each.next_clip_l2) * 4 for each in drawn])
    assert (moved == 0).mean() == pytest.approx(0.5, abs=0.04)
    assert np.sqrt(2 * (moved**2).mean()) == pytest.approx(0.75, rel=0.06)


def refused(call) -> str:
    with pytest.raises((ValueError, OperatorFault)) as caught:
        call()
    return str(caught.value)


TOO_LITTLE = {"kind": "quantile", "count_noise": 0.4}


def test_a_count_with_too_little_noise_is_refused_wherever_a_plan_is_read(tmp_path):
    told = "count_noise=2/5 is too little beside noise_multiplier="
    assert told in refused(lambda: learning(Quantile(F(1, 2), F(1, 5), F(2, 5)), F(4, 5)))
    document = strict.parse(
        "\n".join(f"{k}: {v!r}" for k, v in changed(PLAN, {"clipping": TOO_LITTLE}).items()).encode(), "plan.yaml"
    )
    assert told in refused(lambda: draft(document, Hash(bytes(32))))
    small = Small.__new__(Small)
    small.folder = tmp_path
    assert told in refused(lambda: federation_file.load(small.file(training__clipping=TOO_LITTLE)))
    whole = wire.encode(learning(Quantile(F(1, 2), F(1, 5), F(2, 3)), F(1)))
    less = whole.replace(wire.encode(F(2, 3)), wire.encode(F(2, 5)))
    assert wire.decode(whole, Learning).clipping.count_noise == F(2, 3)
    with pytest.raises(Malformed, match="count_noise=2/5 is too little"):
        wire.decode(less, Learning)


def test_a_count_with_too_little_noise_for_a_calibrated_multiplier_is_refused(small, tmp_path):
    file = small.file(
        "calibrated.yaml", training__noise_multiplier=None, training__epsilon=1, training__clipping=TOO_LITTLE
    )
    with pytest.raises(OperatorFault, match=r"calibrated.yaml: training.clipping: count_noise=2/5 is too little"):
        explain.explain(small.folder / "policy.yaml", file)


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("quantil", "it should be 'flat', 'automatic' or 'quantile'"), ({"kind": "flat", "gamma": 1}, "gamma belongs to automatic clipping"),
        ({"kind": "automatic", "target": 0.5}, "target belongs to quantile clipping"), ({"kind": "automatic", "gamma": 0}, "gamma: found 0"),
        ({"kind": "quantile", "target": 1}, "target: found 1"), ({"kind": "quantile", "rate": 0}, "rate: found 0"),
        ({"kind": "quantile", "count_noise": -1}, "count_noise: found -1"), ({"kind": "quantile", "sigma_b": 1}, "sigma_b: unknown key"), ({}, "kind: missing"),
        (None, "found nothing"), (True, "found true"),
    ],
)  # fmt: skip
def test_clipping_that_is_not_understood_is_refused_by_name(small, written, told):
    with pytest.raises(OperatorFault) as caught:
        federation_file.load(small.file("clipping.yaml", training__clipping=written))
    assert told in str(caught.value)
    assert "training.clipping" in str(caught.value)


def test_what_is_not_given_is_what_the_authors_use(small):
    def meant(written):
        training = federation_file.load(small.file("clipping.yaml", training__clipping=written)).file.training
        return training.clipping.meant(training.divisor)

    assert meant("flat") == Flat()
    assert meant("automatic") == Automatic(F(1, 100))
    assert meant("quantile") == Quantile(F(1, 2), F(1, 5), F(1))  # the divisor is 20


# How the clip moves.


def after(rule: Learning, clip: Fraction, count: float) -> Fraction:
    """The clip after a step whose noised, centred count is this."""
    share, _ = shares(rule)
    return read(rule, clip, NoisedSum(np.array([0.0, count * 2 * share * float(clip)]))).next_clip_l2


@given(st.floats(-1e9, 1e9), CLIPS, st.fractions(min_value=LOWEST, max_value=1))
@settings(max_examples=200, deadline=None)
def test_the_clip_is_never_above_the_plans_and_never_nothing(count, clip, part):
    rule = learning(MODES["quantile"], clip=clip)
    assert clip * LOWEST <= after(rule, clip * part, count) <= clip


def test_the_clip_moves_as_andrew_et_al_say():
    rule = learning(Quantile(F(3, 4), F(1, 5), F(2)), divisor=10)
    for count in (-5, 0, 2.5, 5):
        moved = math.exp(-0.2 * (0.5 + count / 10 - 0.75))
        assert float(after(rule, F(1, 4), count)) == pytest.approx(0.25 * moved, rel=1e-12)


def test_the_count_is_divided_by_the_public_divisor_whatever_the_sample_was():
    few, many = (learning(MODES["quantile"], divisor=divisor) for divisor in (10, 1000))
    assert math.log(after(few, F(1, 4), 3) * 4) == pytest.approx(100 * math.log(after(many, F(1, 4), 3) * 4))


# Steps, in every mode.

TEXTS = ("late again", "ok", "you lost my bag, and then you lost it once more", "thanks!", "", "zzz", "fine. fine.")
RECORDS = tuple(Record(text, i % 3) for i, text in enumerate(TEXTS * 3))


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    return shared("bert", tmp_path_factory.mktemp("bert"))


def base(of) -> bytes:
    return np.random.default_rng(0).normal(0, 0.1, of.dimension).astype("<f4").tobytes()


def asked(of, mode, **changes):
    event = PoissonGaussian(F(1, 2), F(1, 2), 4)
    return plan(of, **{"event": event, "clip_l2": F(1, 10), "divisor": 10, "clipping": mode, **changes})


@every_mode
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "adamw-bc"])
def test_micro_batches_of_one_two_and_seven_give_one_result_and_the_same_events(of, mode, optimizer):
    rate = F(1, 2) if optimizer == "sgd" else F(1, 1000)
    changes = [{"micro_batch": size} for size in (1, 2, 7)] + [{"micro_batch": 64, "micro_tokens": 40}]
    first, *others = (
        of.train(
            asked(of, mode, optimizer=optimizer, learning_rate=rate, **change), base(of), RECORDS, repeatable("cut")
        )
        for change in changes
    )
    for other in others:
        assert np.abs(other.values - first.values).max() <= 1e-6
        assert other.did == first.did == asked(of, mode).learning.event
    assert np.abs(first.values).max() > 1e-3


@every_mode
def test_a_step_asks_for_one_key_for_its_sample_and_one_for_all_its_noise(of, mode):
    asked_for = []

    def rand(size):
        asked_for.append(size)
        return os.urandom(size)

    update = of.train(asked(of, mode), base(of), RECORDS, rand)
    assert asked_for == [32, 32] * 4
    assert update.did == asked(of, mode).learning.event


@every_mode
@pytest.mark.parametrize("what", ["no record", "every gradient NaN", "one gradient infinite"])
def test_a_step_without_a_usable_gradient_is_noisy_and_charged(of, mode, what):
    event = PoissonGaussian(F(1, 2**65) if what == "no record" else F(1), F(1), 5)
    learned = plan(of, event=event, learning_rate=F(8), clipping=mode)
    encoded = of._tokens(TEXTS, (0,) * len(TEXTS), 32)
    of.admit(learned)  # the model is checked before it is spoiled
    embedding = of._built.model.get_submodule("encoder").get_input_embeddings().weight
    before = embedding.detach().clone()
    tokens = {
        "every gradient NaN": sorted({token for row in encoded.ids for token in row}),
        "one gradient infinite": [encoded.ids[2][3]],
        "no record": [],
    }[what]
    with torch.no_grad():
        embedding[tokens] = math.nan if what == "every gradient NaN" else math.inf
    try:
        update = of.train(learned, of.initial(), tuple(Record(text, 0) for text in TEXTS), os.urandom)
    finally:
        with torch.no_grad():
            embedding.copy_(before)
    assert update.did == event
    assert np.isfinite(update.values).all()
    if what != "one gradient infinite":  # deviation of a value: sqrt(steps) * noise * clip * rate / divisor
        deviation = read(learned.learning, F(1), NoisedSum(np.zeros(2))).deviation * 8 * math.sqrt(5)
        low, high = (0.0, 1.15) if isinstance(mode, Quantile) else (0.85, 1.15)  # a clip that moved has less noise
        assert low < update.values.std() / deviation < high
        assert update.values.std() > 0.1


def test_no_clip_but_the_plans_leaves_with_an_update(of):
    told = []
    asked_for = asked(of, MODES["quantile"])
    update = of.train(asked_for, base(of), RECORDS, os.urandom, lambda *at: told.append(at))
    assert [field.name for field in fields(Update)] == ["values", "did", "below"]
    assert update.below is None
    assert update.did == asked_for.learning.event
    assert told == [(i, 4) for i in range(1, 5)]


def test_a_clip_that_follows_falls_while_most_gradients_are_below_it(of):
    rule = asked(of, Quantile(F(1, 2), F(1, 5), F(1)), clip_l2=F(1000), divisor=7).learning
    rule = replace(rule, event=PoissonGaussian(F(1), F(1, 10), 4))
    adapter_tensors.load(of._built, base(of))
    encoded, clip = of._tokens(TEXTS, (0,) * 7, 32), rule.clip_l2
    seen = []
    for _ in range(4):
        told = step.private_gradient(of._wrapped, of._built.parameters, encoded, rule, clip, os.urandom)
        seen.append(clip := told.next_clip_l2)
    assert F(1000) > seen[0] > seen[1] > seen[2] > seen[3]
    adapter_tensors.load(of._built, of.initial())


# Memory.


@given(st.lists(st.integers(1, 40), max_size=60), st.integers(1, 9), st.none() | st.integers(40, 200), st.data())
def test_a_part_holds_at_most_its_records_and_padded_tokens_and_nobody_is_lost(lengths, size, tokens, data):
    shapes = Shapes(40, data.draw(st.sampled_from([ANY, ALONE])))
    encoded = step.Encoded(tuple((1,) * length for length in lengths), (0,) * len(lengths), 0, shapes=shapes)
    sample = [i for i in range(len(lengths)) if data.draw(st.booleans())]
    parts = list(step.micro_batches(encoded, sample, size, tokens))
    assert sorted(i for part in parts for i in part) == sample
    for part in parts:
        filled = encoded.filled(part)[0]
        assert 1 <= len(part) <= len(filled) <= size
        assert len(filled) in shapes.counts
        assert tokens is None or filled.numel() <= tokens


def test_fewer_tokens_in_memory_than_one_record_has_are_refused(small, of):
    with pytest.raises(OperatorFault, match="micro_tokens is at least max_tokens, 16"):
        federation_file.load(small.file("tokens.yaml", training__micro_tokens=15))
    with pytest.raises(Exception, match="micro_tokens 31, below max_tokens 32"):
        of.admit(asked(of, Flat(), micro_tokens=31))
    assert federation_file.load(small.file("tokens.yaml", training__micro_tokens=16)).file.training.micro_tokens == 16


# Samplers.


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        ("random-allocation", "dp-accounting 0.6 has no event for balls in bins, so nothing here can price it: write `sampler: poisson`"),
        ("shuffle", "a shuffled pass is not a Poisson sample, and pricing it as one would understate it: write `sampler: poisson`"),
        ("possion", "it should be 'poisson' or 'full'"), (None, "it should be 'poisson' or 'full'"),
    ],
)  # fmt: skip
def test_a_sampler_that_is_not_priced_is_refused_by_name(small, sampler, told):
    with pytest.raises(OperatorFault) as caught:
        federation_file.load(small.file("sampler.yaml", training__sampler=sampler))
    assert told in str(caught.value)
    assert "training.sampler" in str(caught.value)


def test_poisson_is_the_sampler_and_may_be_written(small):
    for changes in ({}, {"training__sampler": "poisson"}):
        assert federation_file.load(small.file("sampler.yaml", **changes)).file.training.sampler == "poisson"


def test_a_rate_is_given_where_records_are_drawn_and_nowhere_else(small):
    rest = {name: value for name, value in FEDERATION["training"].items() if name != "sampling_rate"}
    full = federation_file.load(small.file("sampler.yaml", training={**rest, "sampler": "full"})).file.training
    assert (full.sampler, full.sampling_rate, full.rate) == ("full", None, 1)
    for sampler, rate, told in (
        ("full", "1/4", "sampling_rate means nothing under sampler full, whose steps have every record: leave it out"),
        ("full", 1, "leave it out"),
        ("poisson", None, "sampler poisson needs sampling_rate, such as 1/20; or write `sampler: full`"),
        ("poisson", 0, "sampling_rate is in (0, 1]"),
    ):
        with pytest.raises(OperatorFault, match=re.escape(told)):
            federation_file.load(
                small.file("sampler.yaml", training={**rest, "sampler": sampler, "sampling_rate": rate})
            )


def test_dp_accounting_has_no_event_for_balls_in_bins():
    """When this fails, random allocation can be priced, and its refusal should go."""
    names = [name for name in dir(dp_accounting) if name.endswith("DpEvent")]
    assert "PoissonSampledDpEvent" in names
    assert not [name for name in names if "alloc" in name.lower() or "bin" in name.lower() or "shuffl" in name.lower()]


def test_a_federation_trains_with_every_mode_and_optimizer(small, tmp_path):
    from tests.support.small import POLICY

    policy = POLICY.replace("norm: l2}\n", "norm: l2}\n  clipping: [automatic, quantile]\n")
    for n, (clipping, optimizer) in enumerate([("automatic", "adamw-bc"), ("quantile", "adamw")]):
        file = small.file(
            f"mode-{n}.yaml", policy, training__clipping=clipping, training__optimizer=optimizer,
            training__micro_tokens=64, training__learning_rate=0.01,
        )  # fmt: skip
        assert small.run(tmp_path / f"run-{n}", tmp_path / f"sites-{n}", file).outcome == "finished"


def test_a_mode_the_policy_does_not_name_is_refused_before_training(small, tmp_path):
    result = small.run(
        tmp_path / "run", tmp_path / "sites", small.file("automatic.yaml", training__clipping="automatic")
    )
    assert result.outcome == "refused"
    assert result.why.endswith(": training.clipping: training.clipping: automatic; allowed: flat; set clipping to flat")
