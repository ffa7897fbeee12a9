"""A whole run of full batches: what it is charged, what an auditor recomputes, and what people are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from securefl.audit import explain
from securefl.audit.replay import replay
from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.errors import OperatorFault
from tests.privacy.test_full_batch import closed_delta
from tests.support.small import POLICY, Small

FULL = POLICY.replace("[poisson-gaussian]", "[full-batch-gaussian]\n  adapters: [head]")
HEAD = {"kind": "head", "layer": 1, "features": {}}
TRAINING = {
    "rounds": 2, "steps": 2, "sampler": "full", "noise_multiplier": 2, "clip": 0.5, "divisor": 60,
    "learning_rate": 0.1, "optimizer": "sgd", "max_tokens": 16, "micro_batch": 16,
}  # fmt: skip


def test_a_run_of_full_batches_is_charged_as_plain_gaussians_and_says_so(small: Small, tmp_path: Path) -> None:
    out, averaged = tmp_path / "run", {"average_last": 2}
    file = small.file("full.yaml", FULL, training=TRAINING, strategy=averaged, adapter=HEAD)
    result = small.run(out, tmp_path / "sites", file, page=True)
    assert result.outcome == "finished", result.why
    verdict = verify(out)
    assert verdict.ok, verdict.why
    again, told = replay(out), json.loads((out / "report.json").read_text())
    assert {(e["mechanism"], *e["sampling_rate"], e["steps"]) for e in again["events"]} == {
        ("full-batch-gaussian", 1, 1, 2)
    }
    spent = told["epsilon"]["spent"]
    assert spent == pytest.approx(again["epsilon"]["pld"], abs=2e-6)
    assert closed_delta(spent, 1.0) <= 1e-5 < closed_delta(spent - 1e-3, 1.0)  # 2 rounds of 2 steps: mu = sqrt(4) / 2
    assert (told["epsilon"]["mechanism"], told["epsilon"]["sampler"]) == ("full-batch-gaussian", "no")
    assert "none: every record is in each step" in (out / "report.html").read_text()
    (sampling,) = [line for line in explain.explain(out).lines if line.name == "sampling"]
    assert sampling.state is explain.State.OFF
    assert any("center is bound as written" in each for each in verdict.unverified)
    assert "every record is in every step" in sampling.shown


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"strategy": {"average_last": 3}}, "strategy.average_last 3 is above training.rounds: write 2 or less"),
        ({"strategy": {"average_last": 2, "pull": 1}}, "average_last with home, pull or attention"),
        ({"strategy": {"average_last": 2}, "adapter__rule": "svd"}, "leave strategy.average_last out, or use b-only"),
        ({"strategy": {"average_last": 0}}, "average_last"),
    ],
)
def test_a_document_that_averages_what_it_cannot_is_refused_with_what_would_do(small: Small, changes, told) -> None:
    with pytest.raises(OperatorFault, match=told):
        federation_file.load(small.file("averaged.yaml", **changes))
    fine = federation_file.load(small.file("averaged.yaml", strategy={"average_last": 2}))
    assert fine.file.strategy.average_last == 2
