"""Optimizers on private gradients: what Adam makes of pure noise, and that no optimizer is shown a record."""

import inspect
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from securefl.terms import Flat, PoissonGaussian, Quantile
from securefl.training import adapter_tensors, optimizers, step
from securefl.training.clipping import PrivateGradient, read
from securefl.training.engines import engine
from securefl.training.noise import ClippedSum, NoisedSum, noised, repeatable
from tests.support.tiny_models import F, plan, shared


@pytest.fixture(scope="module")
def of(tmp_path_factory):
    return shared("bert", tmp_path_factory.mktemp("bert"))


def learning(of, **changes):
    event = PoissonGaussian(F(1, 2), F(2), 30)
    return plan(of, **{"event": event, "clip_l2": F(1, 4), "divisor": 5, "optimizer": "adamw-bc", **changes}).learning


def test_of_pure_noise_the_corrected_second_moment_is_about_nothing(of):
    rule, tensor = learning(of), torch.nn.Parameter(torch.zeros(100_000))
    optimizer = optimizers.optimizer_of([tensor], rule)
    rand, steps = repeatable("pure noise"), 20
    for _ in range(steps):
        silent = ClippedSum(np.zeros(100_000), rule.clip_l2)
        step.descend(optimizer, [tensor], read(rule, rule.clip_l2, noised(silent, rule.event, rand)))
    variance = (2 * 0.25 / 5) ** 2  # (noise_multiplier * clip / divisor) ** 2
    left = optimizer.signal(tensor) / variance
    assert abs(float(left.mean())) < 5 * (2 / steps / 1e5) ** 0.5  # five standard errors
    assert float(left.std()) == pytest.approx((2 / steps) ** 0.5, rel=0.02)
    plain = optimizer.state[tensor]["square"] / (1 - 0.999**steps) / variance
    assert float(plain.mean()) == pytest.approx(1, abs=0.01)  # what Adam divides by the root of


def test_a_signal_above_the_noise_is_found_at_its_own_size(of):
    rule, tensor = learning(of), torch.nn.Parameter(torch.zeros(50_000))
    optimizer, rand = optimizers.optimizer_of([tensor], rule), repeatable("signal")
    for _ in range(20):
        signal = ClippedSum(np.full(50_000, 0.3), rule.clip_l2)
        step.descend(optimizer, [tensor], read(rule, rule.clip_l2, noised(signal, rule.event, rand)))
    assert float(optimizer.signal(tensor).mean()) == pytest.approx((0.3 / 5) ** 2, rel=0.05)


def test_without_noise_it_is_adam():
    torch.manual_seed(0)
    mine, theirs = (torch.nn.Parameter(torch.ones(50)) for _ in range(2))
    pair = optimizers.AdamBC([mine], 0.01), torch.optim.Adam([theirs], lr=0.01)
    for _ in range(10):
        gradient = torch.randn(50)
        for tensor, optimizer in zip((mine, theirs), pair, strict=True):
            tensor.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(mine, theirs, atol=1e-6)


def test_noise_alone_moves_a_tensor_at_most_ten_times_as_far_as_adam_would():
    tensor = torch.nn.Parameter(torch.zeros(1))
    optimizer = optimizers.AdamBC([tensor], 1.0)
    optimizers.tell_noise(optimizer, 100.0)  # far more than is there: the floor decides
    tensor.grad = torch.ones(1)
    optimizer.step()
    assert float(tensor) == pytest.approx(-1 / (0.1 * 100))


@pytest.mark.parametrize("optimizer", optimizers.NAMES)
@pytest.mark.parametrize("clipping", [Flat(), Quantile(F(1, 2), F(1, 5), F(5))])
def test_an_optimizer_needs_nothing_but_noised_gradients_and_public_numbers(of, optimizer, clipping):
    """Post-processing: the trained state is made again from the private gradients alone, with no record in reach."""
    rule = learning(of, optimizer=optimizer, clipping=clipping, learning_rate=F(1, 100))
    rule = replace(rule, event=replace(rule.event, steps=4))
    parameters = of._built.parameters
    encoded = of._tokens(("late again", "ok", "thanks!", "you lost my bag"), (0, 1, 2, 0), 32)
    adapter_tensors.load(of._built, of.initial())
    made, clip, trained = [], rule.clip_l2, optimizers.optimizer_of(parameters, rule)
    for _ in range(4):
        made.append(step.private_gradient(of._wrapped, parameters, encoded, rule, clip, os.urandom))
        clip = made[-1].next_clip_l2
        step.descend(trained, parameters, made[-1])
    first = adapter_tensors.dump(of._built)
    adapter_tensors.load(of._built, of.initial())
    again = optimizers.optimizer_of(parameters, rule)
    for gradient in made:
        step.descend(again, parameters, gradient)
    assert adapter_tensors.dump(of._built) == first != of.initial()
    adapter_tensors.load(of._built, of.initial())
    engine.forget(parameters)


def test_what_is_read_from_a_noised_sum_is_read_without_a_sample():
    assert list(inspect.signature(read).parameters) == ["learning", "clip_l2", "noised"]
    assert list(inspect.signature(step.descend).parameters) == ["optimizer", "parameters", "gradient"]
    assert PrivateGradient.__dataclass_fields__.keys() == {"values", "deviation", "next_clip_l2"}


@pytest.mark.parametrize(("clipping", "rest"), [(Flat(), 1.0), (Quantile(F(1, 2), F(1, 5), F(5, 3)), 0.8)])
def test_the_deviation_an_optimizer_is_told_is_the_noises(of, clipping, rest):
    rule = learning(of, clipping=clipping)
    told = read(rule, F(1, 8), NoisedSum(np.zeros(2))).deviation
    assert told == pytest.approx(2 * 0.125 / 5 / rest)


def test_training_with_little_noise_learns_with_the_correction_too(of):
    from securefl.terms.records import Record

    words = ("late broken rude", "fine okay so", "great kind thanks")
    records = tuple(Record(f"{words[i % 3]} {i}", i % 3) for i in range(30))
    event = PoissonGaussian(F(1, 2), F(1, 100), 25)
    asked = plan(of, event=event, optimizer="adamw-bc", learning_rate=F(1, 20), micro_batch=32)
    update = of.train(asked, of.initial(), records, repeatable("learn"))
    assert of.evaluate(update.values.astype("<f4").tobytes(), records, 32).accuracy > 0.6
