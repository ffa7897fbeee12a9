"""A record is computed in shapes of its own length, and what it adds to a sum is its own, bit for bit.

Where there is a GPU, `SharedModel` is on it, and all of this is about its kernels.
"""

from __future__ import annotations

import hashlib
from fractions import Fraction as F

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audits.protection import bases
from securefl.errors import OperatorFault
from securefl.training import clipping, gradient_invariance, step
from securefl.training.shapes import ALONE, ANY, SAME, Shapes
from securefl.training.trainer import LoraTrainer
from tests.support.tiny_models import UNREAD

LADDER = st.sampled_from([ANY, SAME, ALONE])


@given(st.integers(1, 2000), st.none() | st.integers(1, 2000))
def test_a_padded_length_is_of_the_length_and_has_room_for_it(length, most):
    padded = Shapes(most).padded(length)
    assert length <= padded <= max(16, 1.25 * length + 8)
    if most is not None and length <= most:
        assert padded <= most
        assert padded > length or length == most


@given(
    st.lists(st.integers(1, 60), max_size=40),
    st.integers(1, 64),
    st.none() | st.integers(60, 900),
    LADDER,
    st.data(),
)
def test_neighbours_change_no_records_padding_nor_whether_it_is_padded(lengths, size, tokens, counts, data):
    encoded = step.Encoded(
        tuple((1,) * length for length in lengths), (0,) * len(lengths), 0, shapes=Shapes(60, counts)
    )
    sample = [i for i in range(len(lengths)) if data.draw(st.booleans())]
    for part in step.micro_batches(encoded, sample, size, tokens):
        ids, mask, _ = encoded.filled(part)
        assert len(ids) in counts
        for row, record in enumerate(part):
            assert ids.shape[1] == encoded.shapes.padded(lengths[record])
            assert int(mask[row].sum()) == lengths[record]
        assert bool(mask.all()) == (lengths[part[0]] == ids.shape[1])
        assert bool((mask.sum(1) >= 1).all())


ROWS = st.lists(st.lists(st.floats(width=32), min_size=3, max_size=3), min_size=1, max_size=6)


@given(ROWS, st.fractions(min_value=F(1, 10**6), max_value=10**6), st.randoms())
@settings(deadline=None)
def test_a_record_more_moves_a_sum_by_its_own_part_exactly_in_any_order(rows, clip, order):
    parts = [clipping.summed([torch.tensor([row])], float(clip)) for row in rows]
    shuffled = list(rows)
    order.shuffle(shuffled)
    assert torch.equal(clipping.summed([torch.tensor(shuffled)], float(clip)), sum(parts))
    if len(rows) > 1:
        without = clipping.summed([torch.tensor(rows[1:])], float(clip))
        assert torch.equal(clipping.summed([torch.tensor(rows)], float(clip)) - without, parts[0])


def test_squares_over_many_columns_are_added_the_same_way_for_one_row_as_for_many():
    rows = [torch.randn(9, 5000), torch.randn(9, 3)]
    together = clipping.summed(rows, 1.0)
    assert torch.equal(together, sum(clipping.summed([each[i : i + 1] for each in rows], 1.0) for i in range(9)))


@pytest.mark.parametrize("number", range(24))
def test_one_record_more_moves_the_sum_by_its_own_part_at_a_random_base(number):
    kind, of = bases.KINDS[number % 8], bases.model(bases.MODELS[number // 8])
    found = bases.moved(of, bases.base(of, kind, number), number)
    assert found.by <= 1 + bases.BEYOND
    assert found.exactly


def test_records_padded_together_do_move_each_other_at_such_bases():
    found = bases.search(range(100))
    assert found.together > 1.01, "the control shows nothing: the bases are too tame"
    assert found.inexact == 0
    assert found.refused == 20


@pytest.mark.parametrize("counts", [ANY, SAME, ALONE])
def test_memory_and_order_change_no_bit_of_a_sum(counts):
    of, texts = bases.model("bert"), (*bases.SHORT, *bases.LONG)
    at = bases.base(of, "rank one", 4)
    sums = [bases.total(of, at, texts, Shapes(bases.TOKENS, counts), rows) for rows in (1, 2, 5, 64)]
    sums.append(bases.total(of, at, texts[::-1], Shapes(bases.TOKENS, counts)))
    assert all(np.array_equal(sums[0], each) for each in sums)


class Rough(torch.nn.Module):
    """A head whose results depend on the batch, as those of some kernels do."""

    def __init__(self, inner, wrong):
        super().__init__()
        self.inner, self.wrong = inner, wrong

    def forward(self, x):
        return self.wrong(self.inner(x))


def chosen(of, wrong):
    head, of._shown = of._built.model.head, gradient_invariance.Shown()
    of._built.model.head = Rough(head, wrong)
    built = of._built
    try:
        question = gradient_invariance.Question(
            built,
            of._wrapped,
            lambda ids: step.Encoded(ids, tuple(n % 3 for n in range(len(ids))), 0),
            tuple(range(4, 40)),
            step.cross_entropy,
            answers=True,
        )
        return question.shapes(bases.TOKENS).counts
    finally:
        of._built.model.head = head


def test_where_the_number_of_rows_matters_it_is_always_one_and_where_neighbours_do_a_record_is_alone():
    of = bases.model("bert")
    assert chosen(of, lambda x: x) == ANY
    assert chosen(of, lambda x: x + len(x) * 1e-3 * x) == SAME
    assert chosen(of, lambda x: x + 1e-3 * x.sum(0, keepdim=True).detach()) == ALONE


def test_what_gives_other_bits_when_computed_again_is_refused():
    of, calls = bases.model("bert"), iter(range(10**6))
    with pytest.raises(OperatorFault, match="computed again"):
        chosen(of, lambda x: x * (1 + 1e-3 * next(calls)))


def test_a_state_is_shown_once_and_what_was_found_is_kept():
    of = bases.model("llama")
    of._shown = gradient_invariance.Shown()
    one, other = bases.base(of, "ordinary", 1), bases.base(of, "ordinary", 2)
    for at in (one, one, other, one):
        of.shapes(bases.plan(of), at)
    assert list(of._shown._thorough.values()) == [ANY]
    assert list(of._shown._at.values()) == [ANY, ANY]


def test_a_base_is_shown_before_its_price_is_reserved_and_before_a_record_is_read():
    of = bases.model("gpt2")
    of._shown = gradient_invariance.Shown()
    at, rule = bases.base(of, "drowned", 3), bases.plan(of)
    LoraTrainer(of, UNREAD, lambda size: bytes(size)).admit(rule, at)
    assert [digest for _, digest in of._shown._at] == [hashlib.sha256(at).digest()]
