"""An upload says how long it is, and knows the state that it is of."""

from __future__ import annotations

from fractions import Fraction as F

from hypothesis import given
from hypothesis import strategies as st

from securefl.terms import AdapterRule, Attention, Sharing, Weighting
from securefl.terms.layout import Layout, Tensor
from securefl.terms.uploads import upload_of

NAMES = ("body.0.lora_B.default.weight", "body.1.lora_B.default.weight", "head.bias", "head.weight")
LAYOUTS = st.lists(st.tuples(st.integers(1, 5), st.integers(1, 5)), min_size=4, max_size=4).map(
    lambda shapes: Layout(tuple(map(Tensor, NAMES, shapes)), AdapterRule.B_ONLY)
)
WEIGHTINGS = st.integers(1, 3).map(lambda n: tuple(Weighting(F(k + 1), F(1)) for k in range(n)))
AVERAGED = st.builds(Sharing, st.just(()) | WEIGHTINGS)
AT_HOME = st.builds(Sharing, st.just(()) | WEIGHTINGS, st.just(("head",)))
ATTENDED = st.builds(lambda residual: Sharing(attention=Attention(("head",), F(2), F(1), residual)), st.booleans())


@given(LAYOUTS, AVERAGED)
def test_a_whole_upload_covers_its_state_and_no_other(layout, sharing):
    upload = upload_of(sharing)
    long = upload.dimension(layout, 1)
    assert upload.covers(long, layout.entries, rests=False)
    for other in range(max(0, long - 9), long + 9):
        assert upload.covers(other, layout.entries, rests=False) is (other == long)
    assert not upload.covers(long, layout.entries, rests=True), "where tensors rest, less than all of them is sent"
    assert upload.covers(long, layout.entries + 1, rests=True)


@given(LAYOUTS, AT_HOME)
def test_what_stays_at_home_makes_an_upload_shorter_than_its_state(layout, sharing):
    upload, copies = upload_of(sharing), max(1, len(sharing.weightings))
    long = upload.dimension(layout, 1)
    assert upload.covers(long, layout.entries, rests=False)
    assert long < upload_of(Sharing(sharing.weightings)).dimension(layout, 1)
    for more in range(1, copies):
        assert not upload.covers(long + more, layout.entries, rests=False)
    whole = copies * (layout.entries + 1) if sharing.weightings else layout.entries
    assert not upload.covers(whole, layout.entries, rests=False), "nothing would stay"


@given(LAYOUTS, ATTENDED)
def test_keys_are_sent_for_each_sum_with_their_weights(layout, sharing):
    upload, keys = upload_of(sharing), layout.keys(sharing.attention)
    residuals = sum(key.stop - key.start for key in keys) * sharing.attention.residual
    long = upload.dimension(layout, 1)
    assert long == layout.entries + residuals + sharing.sums * len(keys)
    assert upload.covers(long, layout.entries + residuals, rests=False)
    assert not upload.covers(layout.entries + residuals, layout.entries + residuals, rests=False), "no weight at all"
    assert upload.covers(long + 1, layout.entries + residuals, rests=False) is (sharing.sums == 1)
    assert not upload.is_fresh
    assert upload.weights(long) >= sharing.sums * len(keys)


@given(AVERAGED | AT_HOME)
def test_a_weight_that_follows_from_what_is_kept_is_not_fresh(sharing):
    moved = tuple(Weighting(each.sharpness, each.clip, renewal=F(1, 2)) for each in sharing.weightings)
    assert upload_of(Sharing(moved, sharing.home)).is_fresh is (not moved)
    assert upload_of(sharing).is_fresh is not (bool(sharing.weightings) and bool(sharing.home))
    assert upload_of(sharing).weights(10**6) == len(sharing.weightings)
    assert upload_of(Sharing(moved)).exponent == max((2 * each.clip for each in moved), default=0)
