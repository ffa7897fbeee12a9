"""Noise and sampling: laws of the numbers that privacy rests on."""

import math
import os
from fractions import Fraction as F

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from securefl.terms import FullBatchGaussian, PoissonGaussian
from securefl.training.noise import (
    ClippedSum,
    NoisedSum,
    gaussian,
    grid,
    keystream,
    noised,
    poisson_sample,
    repeatable,
    step_records,
)

RATES = st.fractions(min_value=F(1, 1000), max_value=1)


def test_a_full_batch_is_every_record_and_draws_nothing():
    def nobody(size):
        raise AssertionError("bytes were drawn")

    for records in (0, 1, 7, 1000):
        assert list(step_records(nobody, records, FullBatchGaussian(F(1), 1))) == list(range(records))
    assert len(step_records(os.urandom, 1000, PoissonGaussian(F(1, 2**65), F(1), 1))) == 0


def test_the_keystream_is_aes_256_in_counter_mode():
    # NIST SP 800-38A F.5.5 fixes the cipher; here the mode's counter starts at zero
    key = bytes(range(32))
    expected = Cipher(algorithms.AES(key), modes.ECB()).encryptor().update(bytes(16) + bytes(15) + b"\1")
    assert keystream(lambda n: key[:n], 4).astype("<u8").tobytes() == expected


def test_every_draw_takes_a_fresh_key_of_32_bytes():
    asked = []

    def rand(size):
        asked.append(size)
        return os.urandom(size)

    first, second = gaussian(rand, 10), gaussian(rand, 10)
    assert asked == [32, 32]
    assert not np.array_equal(first, second)


def test_gaussian_values_have_the_moments_and_tails_of_a_normal():
    drawn = gaussian(repeatable("moments"), 400_001)
    assert len(drawn) == 400_001
    assert abs(drawn.mean()) < 5 / math.sqrt(4e5)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / 4e5)
    for bound in (0.5, 1.0, 2.0, 3.0):
        share, expected = (np.abs(drawn) > bound).mean(), math.erfc(bound / math.sqrt(2))
        assert abs(share - expected) < 5 * math.sqrt(expected / 4e5)
    assert np.abs(np.corrcoef(drawn[:200_000], drawn[200_001:])[0, 1]) < 0.012


FALSE_ALARM = 1e-4  # of either test on true normal values; with fixed entropy neither ever changes its mind


def p_values(drawn):
    """Of Kolmogorov and Smirnov's test, and of chi-square over 500 cells of equal mass."""
    cells = stats.norm.ppf(np.arange(1, 500) / 500)
    counted = np.bincount(np.searchsorted(cells, drawn), minlength=500)
    return stats.kstest(drawn, "norm").pvalue, stats.chisquare(counted).pvalue


def test_gaussian_values_pass_kolmogorov_and_smirnov_and_chi_square():
    drawn = gaussian(repeatable("goodness of fit"), 1_000_000)
    assert min(p_values(drawn)) > FALSE_ALARM
    assert min(p_values((drawn[:500_000] + drawn[500_000:]) / np.sqrt(2))) > FALSE_ALARM  # halves are independent
    assert abs(drawn.var() - 1) < 0.005


@pytest.mark.parametrize("wrong", [lambda x: 1.01 * x, lambda x: x + 0.01, lambda x: np.clip(x, -2.5, 2.5), np.rint])
def test_both_tests_together_find_noise_that_is_a_little_wrong(wrong):
    assert min(p_values(wrong(gaussian(repeatable("a little wrong"), 1_000_000)))) < FALSE_ALARM


def test_a_noised_sum_of_nothing_is_normal_up_to_its_grid():
    out = noised(ClippedSum(np.zeros(1_000_000), F(1, 3)), PoissonGaussian(F(1), F(4, 5), 1), repeatable("on the grid"))
    assert min(p_values(out.values / float(F(4, 5) * F(1, 3)))) > FALSE_ALARM


@given(RATES, st.integers(0, 300), st.binary(min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_a_sample_is_a_set_of_records_and_repeats_with_its_randomness(rate, records, seed):
    sample = poisson_sample(repeatable(seed.hex()), records, rate)
    assert np.array_equal(sample, poisson_sample(repeatable(seed.hex()), records, rate))
    assert len(set(sample.tolist())) == len(sample)
    assert all(0 <= i < records for i in sample)


@pytest.mark.parametrize("rate", [F(1, 20), F(1, 3), F(7, 8)])
def test_each_record_is_drawn_at_the_rate_and_by_itself(rate):
    rand, rounds, records = repeatable(str(rate)), 4000, 25
    hits = np.zeros((rounds, records))
    for row in hits:
        row[poisson_sample(rand, records, rate)] = 1
    q = float(rate)
    expected = rounds * q
    chi_square = (((hits.sum(0) - expected) ** 2) / (expected * (1 - q))).sum()
    assert chi_square < 60  # 25 degrees of freedom: p < 1e-4
    sizes = hits.sum(1)
    assert abs(sizes.var() / (records * q * (1 - q)) - 1) < 0.15  # a shuffled or fixed-size sampler has variance 0
    together = (hits[:, 0] * hits[:, 1]).mean()
    assert abs(together - q * q) < 5 * math.sqrt(q * q / rounds)


def test_rate_one_takes_everybody_and_a_rate_below_the_resolution_nobody():
    assert poisson_sample(os.urandom, 5, F(1)).tolist() == [0, 1, 2, 3, 4]
    assert poisson_sample(os.urandom, 5, F(1, 2**65)).tolist() == []


def test_the_sampling_rate_is_never_above_the_one_that_is_priced(monkeypatch):
    third = 2**64 // 3  # the first word that must stay outside at 1/3
    words = np.array([third - 1, third, third + 1], dtype=np.uint64)
    monkeypatch.setattr("securefl.training.noise.keystream", lambda rand, size: words[:size])
    assert poisson_sample(os.urandom, 3, F(1, 3)).tolist() == [0]


@given(st.fractions(min_value=F(1, 10**6), max_value=10**6), st.floats(-1e3, 1e3))
@settings(max_examples=50, deadline=None)
def test_a_noised_sum_lies_on_the_public_grid(clip, value):
    summed = ClippedSum(np.full(7, value * float(clip)), clip)
    out = noised(summed, PoissonGaussian(F(1), F(1, 2), 1), os.urandom)
    step = grid(clip)
    assert isinstance(out, NoisedSum)
    assert math.frexp(step)[0] == 0.5  # a power of two
    assert 2.0**-21 < step / float(clip) <= 2.0**-20
    assert np.array_equal(out.values / step, np.rint(out.values / step))


@pytest.mark.parametrize(("multiplier", "clip"), [(F(1, 2), F(1)), (F(3), F(1, 10)), (F(1), F(7))])
def test_the_noise_has_the_deviation_that_is_priced(multiplier, clip):
    out = noised(ClippedSum(np.zeros(100_000), clip), PoissonGaussian(F(1, 2), multiplier, 1), repeatable("deviation"))
    assert abs(out.values.std() / float(multiplier * clip) - 1) < 0.012


def test_only_a_clipped_sum_can_be_noised():
    with pytest.raises(TypeError, match="only a ClippedSum"):
        noised(np.zeros(3), PoissonGaussian(F(1), F(1), 1), os.urandom)


def test_a_noised_sum_cannot_be_noised_into_looking_cheaper():
    with pytest.raises(TypeError, match="NoisedSum"):
        noised(NoisedSum(np.zeros(3)), PoissonGaussian(F(1), F(1), 1), os.urandom)


@pytest.mark.parametrize(
    "name",
    [
        "noise",
        "step",
        "trainer",
        "shared_model",
        "preflight",
        "model",
        "adapters",
        "classifier",
        "built",
        "data",
        "adapter_tensors",
    ],
)
def test_no_framework_generator_is_named_where_records_are_trained_on(name):
    from importlib import import_module
    from inspect import getsource

    source = getsource(import_module(f"securefl.training.{name}"))
    for word in (
        "torch.randn",
        "torch.normal",
        "manual_seed",
        "np.random",
        "import random",
        "Generator(",
        "default_rng",
    ):
        assert word not in source
