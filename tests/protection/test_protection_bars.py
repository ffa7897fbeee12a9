"""A slice of what `audits/protection/masking_bars.py` runs in full."""

from __future__ import annotations

import pytest

from audits.protection import masking_bars as bars


@pytest.mark.parametrize(
    "figures", [lambda: bars.sums(8, 12), lambda: bars.silence(16), lambda: bars.looks(60_000)],
    ids=["sums", "silence", "looks"],
)  # fmt: skip
def test_masked_sums_are_exact_or_none_and_look_like_noise(figures) -> None:
    assert not [figure for figure in figures() if not figure["holds"]]
