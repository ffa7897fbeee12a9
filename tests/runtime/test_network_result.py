"""The committed result of `audits.engines.network`: what it says, and that it would say otherwise of a bad run."""

from __future__ import annotations

import json

import pytest

from audits.engines import network

TOLD = json.loads(network.RESULT.read_text())


def test_every_run_over_a_bad_network_ended_as_in_good_weather() -> None:
    assert network.holds(TOLD)
    assert {row["protection"] for row in TOLD["runs"]} == {each.value for each in network.SCHEMES}
    assert all(row["seconds"] > network.PARTITION_S and row["cut"] for row in TOLD["runs"])
    assert TOLD["weather"] == {"loss": 0.1, "twice": 0.05, "late": 0.05, "delay_s": 0.5, "partition_s": 30.0}


@pytest.mark.parametrize(
    ("name", "bad"),
    [("outcome", "aborted"), ("state_as_in_good_weather", False), ("ledgers_as_in_good_weather", False),
     ("double_charges", 1), ("restarts", 1), ("turned_away_by_the_partition", 0)],
)  # fmt: skip
def test_a_run_that_ended_otherwise_would_be_told(name: str, bad: object) -> None:
    first, *rest = TOLD["runs"]
    assert not network.holds({**TOLD, "runs": [{**first, name: bad}, *rest]})
