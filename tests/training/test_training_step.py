"""One private step: per-record gradients, clipping, the sum, the noise, and what an empty sample does."""

import math
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.errors import OperatorFault
from securefl.terms import FullBatchGaussian, Model, PoissonGaussian
from securefl.training import adapter_tensors, preflight, step
from securefl.training.engines import engine
from securefl.training.engines.choose import wrap
from securefl.training.model import build
from securefl.training.noise import repeatable
from securefl.training.shared_model import SharedModel
from tests.support.tiny_models import KINDS, TASK, F, adapter, plan, saved, shared

TEXTS = (
    "late again",
    "ok",
    "you lost my bag, and then you lost it once more",
    "thanks!",
    "",
    "zzz",
    "fine. fine. fine.",
)


def off_zero(of, seed=0):
    values = np.random.default_rng(seed).normal(0, 0.1, of.dimension)
    return values.astype("<f4").tobytes()


@pytest.fixture(scope="module", params=KINDS)
def world(request, tmp_path_factory):
    of = shared(request.param, tmp_path_factory.mktemp(request.param))
    adapter_tensors.load(of._built, off_zero(of))
    return of, of._tokens(TEXTS, tuple(i % 3 for i in range(len(TEXTS))), 32)


def gradients(world, indices):
    of, encoded = world
    return step.per_record_gradients(of._wrapped, of._built.parameters, encoded.batch(indices))


def flat(parts):
    return torch.cat([part.reshape(len(part), -1) for part in parts], dim=1)


def test_per_record_gradients_equal_plain_backward_passes(world):
    of, encoded = world
    together = flat(gradients(world, range(len(TEXTS))))
    for record in range(len(TEXTS)):
        ids, mask, labels = encoded.batch([record])
        loss = torch.nn.functional.cross_entropy(of._built.model(ids, mask), labels)
        plain = torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss, of._built.parameters)])
        assert float((together[record] - plain).norm() / plain.norm()) < 1e-4
    engine.forget(of._built.parameters)


def test_the_clipped_sum_is_the_same_however_it_is_cut_and_ordered(world):
    of, encoded = world
    sums = [
        step.clipped_sum(of._wrapped, of._built.parameters, encoded, order, size, F(1, 10)).values
        for order, size in ((range(7), 7), (range(7), 2), ((6, 2, 4, 0, 1, 5, 3), 3), (range(7), 1))
    ]
    for other in sums[1:]:
        assert np.linalg.norm(other - sums[0]) < 1e-5 * np.linalg.norm(sums[0])


def test_one_record_moves_the_sum_by_at_most_the_clip(world):
    of, encoded = world
    for clip in (F(1, 1000), F(1, 10)):
        whole = step.clipped_sum(of._wrapped, of._built.parameters, encoded, range(7), 7, clip).values
        for left_out in range(7):
            rest = [i for i in range(7) if i != left_out]
            without = step.clipped_sum(of._wrapped, of._built.parameters, encoded, rest, 7, clip).values
            assert np.linalg.norm(whole - without) <= float(clip) * (1 + 1e-9)


def test_no_gradient_of_a_record_stays_at_the_tensors(world):
    gradients(world, [0, 1])
    assert all(p.grad is None and p.grad_sample is None for p in world[0]._built.parameters)


def test_an_interrupted_pass_leaves_nothing_for_the_next(world):
    of, encoded = world
    before = flat(gradients(world, [0, 1, 2]))
    ids, mask, _ = encoded.batch([3, 4])
    with pytest.raises(ZeroDivisionError):  # a forward pass whose backward half never comes
        step.per_record_gradients(of._wrapped, of._built.parameters, (ids, mask, mask), lambda x, y: 1 // 0)
    assert torch.equal(flat(gradients(world, [0, 1, 2])), before)


ROWS = st.lists(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@given(ROWS, st.fractions(min_value=F(1, 10**6), max_value=10**6))
@settings(max_examples=100, deadline=None)
def test_a_clipped_gradient_is_never_above_the_clip(rows, clip):
    for row in rows:
        norm = np.linalg.norm(step.clipped([torch.tensor([row])], float(clip)).numpy())
        assert F(float(norm)) <= clip


@given(ROWS)
@settings(max_examples=50, deadline=None)
def test_gradients_within_the_clip_are_summed_exactly_once_cut_to_units(rows):
    tensor = torch.tensor(rows) * 2.0**-103
    out = step.clipped([tensor[:, :1], tensor[:, 1:]], 1.0)
    exact = [sum(int(F(value) * 2**42) for value in column) for column in tensor.T.tolist()]
    assert [F(value) * 2**42 for value in out.tolist()] == exact


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_a_record_without_a_finite_gradient_contributes_nothing(poison):
    good, bad = [0.1, 0.2, 0.2], [0.1, poison, 0.0]
    parts = [torch.tensor([[0.1], [bad[0]]]), torch.tensor([good[1:], bad[1:]])]
    assert torch.allclose(step.clipped(parts, 1.0), torch.tensor(good, dtype=torch.float32).double())


def test_clipping_is_over_all_tensors_together():
    parts = [torch.full((1, 2, 2), 3.0), torch.full((1, 5), 4.0)]
    assert abs(float(step.clipped(parts, 1.0).norm()) - 1) < 1e-9


def learning_of(of, **changes):
    return plan(of, **changes).learning


def test_an_empty_sample_still_makes_every_step_and_its_noise(world):
    of, encoded = world
    never = PoissonGaussian(F(1, 2**65), F(1), 5)
    adapter_tensors.load(of._built, of.initial())
    told = []
    learning = learning_of(of, event=never, learning_rate=F(8))
    assert step.run(of._wrapped, of._built.parameters, encoded, learning, os.urandom, lambda *at: told.append(at)) == 5
    assert told == [(i, 5) for i in range(1, 6)]
    moved = np.frombuffer(adapter_tensors.dump(of._built), "<f4")
    assert abs(moved.std() / math.sqrt(5) - 1) < 0.15  # 5 steps of deviation sigma * clip * rate / divisor = 1
    adapter_tensors.load(of._built, off_zero(of))


def test_a_step_is_a_function_of_its_randomness(world):
    of, encoded = world

    def after(label):
        adapter_tensors.load(of._built, off_zero(of))
        step.run(of._wrapped, of._built.parameters, encoded, learning_of(of), repeatable(label))
        return adapter_tensors.dump(of._built)

    assert after("a") == after("a")
    assert after("a") != after("b")
    adapter_tensors.load(of._built, off_zero(of))


def test_a_step_of_sgd_is_the_noised_sum_over_the_divisor(world):
    of, encoded = world
    learning = learning_of(of, event=PoissonGaussian(F(1), F(1, 10**9), 1), divisor=5, learning_rate=F(1, 4))
    before = np.frombuffer(off_zero(of), "<f4").astype(float)
    summed = step.clipped_sum(of._wrapped, of._built.parameters, encoded, range(7), 3, F(1)).values
    step.run(of._wrapped, of._built.parameters, encoded, learning, os.urandom)
    after = np.frombuffer(adapter_tensors.dump(of._built), "<f4").astype(float)
    assert np.allclose(after - before, -0.25 * summed / 5, atol=2e-6)
    adapter_tensors.load(of._built, off_zero(of))


@pytest.mark.parametrize("records", [0, 1, 7])
def test_a_full_batch_is_all_records_over_the_public_divisor_however_it_is_cut(world, records):
    of, encoded = world
    held = step.Encoded(encoded.ids[:records], encoded.labels[:records], encoded.pad, shapes=encoded.shapes)
    least = FullBatchGaussian(F(1, 10**9), 1)
    summed = step.clipped_sum(of._wrapped, of._built.parameters, held, range(records), 3, F(1)).values
    found = []
    for micro_batch in (1, 2, 64):
        learning = learning_of(of, event=least, divisor=5, micro_batch=micro_batch)
        rand = repeatable("full")
        found.append(step.private_gradient(of._wrapped, of._built.parameters, held, learning, F(1), rand).values)
    assert all(np.array_equal(found[0], other) for other in found[1:])
    assert np.allclose(found[0], summed / 5, atol=1e-6)


def test_a_full_batch_without_a_record_still_has_every_step_and_its_noise(world):
    of, encoded = world
    nobody = step.Encoded((), (), encoded.pad, shapes=encoded.shapes)
    adapter_tensors.load(of._built, of.initial())
    learning = learning_of(of, event=FullBatchGaussian(F(1), 5), learning_rate=F(8))
    assert step.run(of._wrapped, of._built.parameters, nobody, learning, os.urandom) == 5
    moved = np.frombuffer(adapter_tensors.dump(of._built), "<f4")
    assert abs(moved.std() / math.sqrt(5) - 1) < 0.15
    adapter_tensors.load(of._built, off_zero(of))


# Preflight.


def test_what_preflight_accepts_is_left_as_it_was(tmp_path):
    of = shared("bert", tmp_path)
    before = {name: tensor.clone() for name, tensor in of._built.model.state_dict().items()}
    of.preflight()
    assert all(torch.equal(tensor, before[name]) for name, tensor in of._built.model.state_dict().items())


def refusal(built, losses=step.cross_entropy, engine="auto"):
    encode = lambda texts, labels: step.Encoded(  # noqa: E731
        tuple(tuple(built.tokenizer(text)["input_ids"]) for text in texts), labels, 0
    )
    with pytest.raises(OperatorFault) as caught:
        preflight.check(built, wrap(built.model, engine), encode, 3, losses)
    assert caught.value.remedy
    return caught.value.what


@pytest.fixture
def built(tmp_path):
    return build(saved("bert", tmp_path), TASK, adapter("bert"))


class Altered(torch.nn.Module):
    """A head with something wrong in it."""

    def __init__(self, head, wrong):
        super().__init__()
        self.inner, self.wrong = head, wrong

    def forward(self, x):
        return self.inner(self.wrong(x))


class Bare(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(32))

    def forward(self, x):
        return x * self.scale


class Centred(torch.nn.Module):
    def forward(self, x):
        return x - x.mean(0)


class Drifting(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x):
        self.seen += 1
        return x


class Doubling(torch.nn.Module):
    def forward(self, x):
        return x * len(x)


def altered(built, wrong):
    built.model.head = Altered(built.model.head, wrong)
    names = tuple(sorted((n, p) for n, p in built.model.named_parameters() if p.requires_grad))
    return replace(built, trainable=names)


def test_batch_norm_is_refused_by_name(built):
    assert "`head.wrong` is a BatchNorm1d" in refusal(altered(built, torch.nn.BatchNorm1d(32)))


def test_a_bare_trainable_tensor_is_refused_by_name(built):
    assert "`head.wrong.scale` belongs to a Bare" in refusal(altered(built, Bare()))


def test_a_layer_that_mixes_records_is_refused(built):
    assert "gradient changes with another record" in refusal(altered(built, Centred()))


def test_a_layer_that_depends_on_the_number_of_records_is_refused(built):
    assert "gradient changes when another record is removed" in refusal(altered(built, Doubling()))


def test_a_frozen_tensor_that_moves_is_refused_by_name(built):
    assert "`head.wrong.seen` (Drifting) is frozen and moved" in refusal(altered(built, Drifting()))


def test_a_loss_averaged_over_the_batch_is_refused(built):
    assert "gradient changes when another record is removed" in refusal(
        built, lambda x, y: step.cross_entropy(x, y) / len(y)
    )


def test_a_loss_that_weighs_records_by_each_other_is_refused(built):
    assert "changes with another record" in refusal(built, lambda x, y: step.cross_entropy(x, y) / (1 + y.sum()))


def test_a_tensor_that_gets_no_gradient_is_refused_by_name(built):
    built.model.unused = torch.nn.Linear(2, 2)
    names = tuple(sorted((n, p) for n, p in built.model.named_parameters() if p.requires_grad))
    assert "`unused.bias` (Linear) has no gradient for each of 5 records" in refusal(replace(built, trainable=names))


def test_a_model_whose_gradient_is_not_a_number_is_refused(built):
    assert "gradient" in refusal(built, lambda x, y: step.cross_entropy(x * math.inf, y))


def test_recomputed_activations_are_refused_by_hooks_and_fine_with_the_fast_engine(built, tmp_path):
    built.model.encoder.gradient_checkpointing_enable({"use_reentrant": False})
    assert "lora_B" in refusal(built, engine="opacus")
    SharedModel(built, Model("m", bytes(32)), TASK, adapter("bert")).preflight()


@given(st.lists(st.integers(-(2**61), 2**61), max_size=40))
def test_units_add_up_beyond_what_one_whole_number_of_64_bits_holds(parts) -> None:
    total = step.Units(1)
    for part in parts:
        total.add(torch.tensor([part], dtype=torch.int64))
    assert float(total.as_float64()) == float(sum(parts))
