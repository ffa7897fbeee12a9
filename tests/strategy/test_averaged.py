"""The mean of the last states: what the last round gives, whatever the optimizer, and what cannot be averaged."""

from __future__ import annotations

from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from securefl.seams import Strategy
from securefl.strategy.averaged import Averaged
from securefl.strategy.fedavg import FedAvg
from securefl.strategy.rules import FactorServer
from securefl.terms import AdapterRule, Sharing
from securefl.terms.layout import Layout
from tests.strategy.test_strategy import OPTIMIZERS, summed
from tests.support.nested import LAYOUT


def walked(strategy: Strategy, rounds: int, seed: int) -> list[bytes]:
    """The start, and the state after each round, of the same sums for every strategy."""
    rand = np.random.default_rng(seed)
    states = [rand.normal(0, 0.3, LAYOUT.entries).astype("<f4").tobytes()]
    memory = strategy.begin(states[0])
    for round_ in range(1, rounds + 1):
        changes = [rand.normal(0, 0.1, LAYOUT.entries) for _ in range(3)]
        state, memory = strategy.advance(round_, states[-1], memory, summed(changes))
        states.append(state)
    return states


@given(st.sampled_from(sorted(OPTIMIZERS)), st.integers(2, 6), st.data())
@settings(max_examples=20, deadline=None)
def test_the_last_round_gives_the_mean_of_the_last_states_and_no_other_round_is_changed(optimizer, rounds, data):
    last, seed = data.draw(st.integers(2, rounds)), data.draw(st.integers(0, 99))
    inner = FactorServer(LAYOUT, OPTIMIZERS[optimizer])
    plain, averaged = walked(inner, rounds, seed), walked(Averaged(inner, rounds, last), rounds, seed)
    assert averaged[:-1] == plain[:-1]
    mean = np.mean([np.frombuffer(each, "<f4").astype(float) for each in plain[-last:]], axis=0)
    assert np.abs(np.frombuffer(averaged[-1], "<f4") - mean).max() < 1e-6
    assert averaged[-1] != plain[-1]


@pytest.mark.parametrize(
    ("rule", "sharing", "rounds", "last", "told"),
    [
        (AdapterRule.B_ONLY, Sharing(), 3, 4, "not in 2 to rounds, 3"),
        (AdapterRule.B_ONLY, Sharing(), 3, 1, "not in 2 to rounds, 3"),
        (AdapterRule.BOTH, Sharing(), 3, 2, "rule both is not that of the products BA"),
        (AdapterRule.B_ONLY, Sharing(pull=F(1, 2)), 3, 2, "models of their own"),
    ],
)
def test_what_has_no_mean_is_refused(rule, sharing, rounds, last, told):
    with pytest.raises(ValueError, match=told):
        Averaged(FactorServer(Layout(LAYOUT.tensors, rule), FedAvg(), sharing), rounds, last)
