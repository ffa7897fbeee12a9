"""Every attack that couples records is one: padded to the longest of a batch, it succeeds."""

from __future__ import annotations

import pytest

from audits.protection.hostile import coupling

TRIALS = range(6)


@pytest.mark.parametrize("name", coupling.CASES)
def test_a_record_more_changes_the_others_where_all_are_padded_together_and_not_here(name):
    cases = [coupling.CASES[name](number) for number in TRIALS]
    assert max(case.excess(coupling.together) for case in cases) > 0, "the attack breaks nothing: it is too tame"
    assert all(case.excess(coupling.own) == 0 for case in cases)


def test_a_base_that_amplifies_rounding_moves_a_sum_by_several_clips_where_all_are_padded_together():
    cases = [coupling.CASES["a base drowns what early layers know, and amplifies rounding"](n) for n in TRIALS]
    assert max(case.excess(coupling.together) for case in cases) > 3
    assert all(case.excess(coupling.own) == 0 for case in cases)


def test_how_a_sample_is_cut_changes_a_sum_where_all_are_padded_together_and_not_here():
    assert max(coupling.cut(coupling.together, number) for number in TRIALS) > 0
    assert all(coupling.cut(coupling.own, number) == 0 for number in TRIALS)
