"""Messages of the first hour: each names the line that was written, the values that may be, and what is nearly meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from securefl.documents import federation_file, strict
from securefl.errors import Missing, OperatorFault
from securefl.policy.document import PolicyDocument
from securefl.simulation.measure import table
from securefl.terms import Reason
from securefl.training.model_files import pinned
from tests.support.small import POLICY, Small


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("first messages"))


def line_of(file: Path, words: str) -> int:
    return next(n for n, line in enumerate(file.read_text().splitlines(), 1) if line.strip().startswith(words))


@pytest.mark.parametrize(("changes", "written", "told"), [
    ({"data": {"text": "text", "label": "label", "texts": 1}}, "texts:", "data.texts: unknown key; did you mean `text`?"),
    ({"data": {"text": "text", "label": "text"}}, "data:", "text and label are both the column 'text'"),
    ({"members": [{"name": n, "region": "here", "data": {"file": "x.csv", "heldout": 2} if n == "b" else {"file": "x.csv"}} for n in "abc"]},
     "heldout:", "members.1.data.heldout: found 2; it should be less than 1"),
])  # fmt: skip
def test_what_is_wrong_in_data_is_told_where_it_was_written_once(
    own: Small, changes: Any, written: str, told: str
) -> None:
    file = own.file("wrong.yaml", **changes)
    with pytest.raises(OperatorFault) as refused:
        federation_file.load(file)
    assert f"{file}:{line_of(file, written)}: " in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize(("left_out", "told"), [
    ("unit: record, ", "budget.unit: missing; add `unit`: record or client"),
    ("epsilon: 20, ", "budget.epsilon: missing; add `epsilon`: "), ("norm: l2", "training.clip.norm: missing; add `norm`: l2"),
])  # fmt: skip
def test_a_field_that_is_missing_is_told_with_what_it_may_be(left_out: str, told: str) -> None:
    with pytest.raises(OperatorFault) as refused:
        strict.validate(strict.parse(POLICY.replace(left_out, "").encode(), "policy.yaml"), PolicyDocument)
    assert told in str(refused.value)


def test_a_model_that_is_not_here_is_told_with_the_places_and_what_is_nearly_called_so(own: Small) -> None:
    with pytest.raises(Missing, match=r"no folder .*modell is here, and no model.*cache; did you mean `./model`\?"):
        pinned("modell", own.folder)
    with pytest.raises(Missing, match="write a path, or fetch it first; nothing is fetched here"):
        pinned("some-company/some-model", own.folder)
    assert pinned("model", own.folder)[1] == pinned("./model", own.folder)[1]


def test_a_refusal_reads_as_a_sentence() -> None:
    told = str(Reason("training.tokens", "128", "4 to 64", "lower max_tokens to 64"))
    assert told == "training.tokens: 128; allowed: 4 to 64; lower max_tokens to 64"


def test_a_run_that_trained_nothing_begins_with_why_and_shows_no_figures(finished: Path) -> None:
    import json

    report = json.loads((finished / "run" / "report.json").read_text())
    shown = table(report, finished / "run")
    assert shown.startswith("accuracy on held-out rows") and "\noutcome  finished" in shown
    refused = table(report | {"adapter": None, "outcome": {"status": "refused", "why": "w"}}, finished / "run")
    assert refused.startswith("outcome  refused: w\n")
    assert "held-out rows" not in refused
