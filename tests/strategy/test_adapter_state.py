"""Numbers are cut out of a state and put back where they stood."""

from __future__ import annotations

import struct

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from securefl.strategy import adapter_state

STATES = st.lists(st.floats(width=32, allow_nan=False), min_size=6, max_size=6).map(lambda v: struct.pack("<6f", *v))
PLACES = st.sampled_from([(), (slice(0, 1),), (slice(1, 3), slice(4, 6)), (slice(4, 6), slice(0, 2)), (slice(0, 6),)])


@given(STATES, STATES, PLACES)
def test_what_is_put_is_found_there_and_nothing_else_moves(state, other, places):
    numbers = adapter_state.cut(other, places)
    made = adapter_state.put(state, places, numbers)
    assert adapter_state.cut(made, places) == numbers
    assert adapter_state.put(made, places, adapter_state.cut(state, places)) == state
    rest = [
        place
        for place in (slice(n, n + 1) for n in range(6))
        if not any(p.start <= place.start < p.stop for p in places)
    ]
    assert adapter_state.cut(made, rest) == adapter_state.cut(state, rest)


@given(STATES)
def test_a_state_is_its_numbers_whatever_they_are(state):
    assert adapter_state.stored(adapter_state.reals(state)) == state
    assert adapter_state.entries(state) == 6
    assert adapter_state.split(state, 2) == (
        adapter_state.cut(state, (slice(0, 2),)),
        adapter_state.cut(state, (slice(2, 6),)),
    )
    assert adapter_state.zeros(6) == adapter_state.stored(np.zeros(6))
