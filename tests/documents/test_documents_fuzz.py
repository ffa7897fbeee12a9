"""A slice of the fuzzing of policies: any seed may be tried, and the whole million is run by `audits/budget/fuzz.py`."""

from __future__ import annotations

import random

from audits.budget import fuzz


def test_spoiled_policies_are_clear_errors_that_run_nothing_and_stay_small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    answers, wrong, _ = fuzz.fuzzed(700, random.randrange(2**32))
    more, worse, peak = fuzz.fuzzed(120, random.randrange(2**32))
    assert not wrong and not worse
    assert answers["refused"] + more["refused"] > 400
    assert peak <= fuzz.LIMIT_BYTES
    assert not list(tmp_path.iterdir())
