"""The example with many tasks, in a shortened form: the same file, fewer records and steps."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from securefl.audit.verify import verify
from securefl.documents import strict, suite_file
from securefl.simulation import suite

FILE = Path(__file__).parents[2] / "examples" / "suite" / "federation.yaml"
DATA = FILE.parent / "../../build/data/publishers"


@pytest.mark.skipif(not DATA.exists(), reason="the example's texts come with `make setup`")
def test_the_suite_of_eight_publishers_trains_every_task_and_sends_a_hundredth(tmp_path: Path) -> None:
    document = strict.read(FILE).value
    del document["training"]["epsilon"]
    document["training"] |= {"rounds": 2, "steps": 1, "sampling_rate": "1/40", "noise_multiplier": 2}
    document["policy"] = str(FILE.parent / document["policy"])
    for task in document["tasks"].values():
        path = FILE.parent / task["data"]["file"]
        with path.open(encoding="utf-8", newline="") as file:
            found = sum(1 for _ in csv.DictReader(file))
        task["data"] |= {"file": str(path), "share": f"900/{found}"}  # about 900 of them
    (tmp_path / "federation.yaml").write_text(json.dumps(document, indent=1))
    result = suite.run(suite_file.load(tmp_path / "federation.yaml"), tmp_path / "run", sites=tmp_path / "sites")
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "run").ok, verify(tmp_path / "run").why
    for told in result.told["tasks"].values():
        full = told["bytes"]["full_update_each_way"]
        assert told["bytes"]["up"] + told["bytes"]["down"] < 2 * full / 100
