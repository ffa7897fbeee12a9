"""An engine that is not honest: which twenty attacks it tries, and that a site which lets one in is found to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from audits.protection.engine_field import outcomes
from audits.protection.hostile.engine import ATTACKS, ATTEMPTS
from securefl.protocol import messages as m
from securefl.site.counts import Counts

WORDS = (
    "sigma", "clip", "sampler", "micro-batch", "starts from", "least cohort", "protection", "policy", "data set", "loss",
    "replays", "order", "short", "more than", "byte by byte", "code", "places on the disk", "another site's", "somebody else", "logs",
)  # fmt: skip


def test_there_are_twenty_attacks_and_each_is_another() -> None:
    assert len(ATTEMPTS) == len({each.name for each in ATTEMPTS}) == 20
    for word in WORDS:
        assert sum(word in name for name in ATTACKS) == 1, word


@pytest.mark.parametrize("name", ["changes sigma", "changes the state that a round starts from"])
def test_a_site_that_does_not_look_who_signed_is_found_to_have_acted(name: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(m, "check", lambda *_: None)
    assert any(each.succeeded for each in outcomes(ATTACKS[name], name, 0, tmp_path))


def test_a_refusal_that_is_recorded_nowhere_stopped_nothing(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(Counts, "refused", lambda *_: None)
    came = outcomes(replace(ATTACKS["sends code"], tries=2), "sends code", 0, tmp_path)
    assert [(each.succeeded, each.stopped_by) for each in came] == [(False, "")] * 2
