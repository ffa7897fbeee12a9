"""Every attack of `audits/protection/hostile/`, once or twice; the audit tries each a hundred times."""

from __future__ import annotations

import pytest

from audits.protection.attempt import attempts

TRIED = list(attempts())


@pytest.mark.parametrize("attempt", TRIED, ids=[attempt.name.replace(" ", "-") for attempt in TRIED])
def test_the_promise_holds_and_what_stopped_the_attack_has_a_name(attempt, tmp_path) -> None:
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir(mode=0o700)  # some use it as a home
        came = attempt.trial(number, folder)
        assert not came.succeeded, came
        assert came.stopped_by, "an attack that nothing stopped, and that did not succeed, was not tried"
