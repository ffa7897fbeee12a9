"""Models and data by their Hugging Face names: found in the local cache, and never fetched."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from securefl.documents.data_source import DataSource
from securefl.errors import Missing, OperatorFault
from securefl.training.data import load
from tests.support.small import Small

LABELS = ("bad", "good")
LOAD = """
import json, sys
from pathlib import Path
from securefl.errors import Fault
from securefl.terms import Adapter, Task
from securefl.training.trainer import SharedModel
try:
    shared = SharedModel.load(sys.argv[1], Path("."), Task("classification", ("bad", "good")), Adapter(("query",), 4, 8, 1))
    print(json.dumps({"dimension": shared.dimension, "digest": shared.model.digest.hex()}))
except Fault as fault:
    print(json.dumps({"fault": str(fault), "exit": fault.exit_code}))
"""


CACHE_DATA = """
import sys
from pathlib import Path
import datasets
made = datasets.load_dataset(sys.argv[1], cache_dir=sys.argv[2])
built = Path(made["train"].cache_files[0]["filename"]).parent
place = Path(sys.argv[2]) / "some-company___some-data" / "default" / "0.0.0" / ("0" * 40)
place.mkdir(parents=True)
for file in built.iterdir():
    (place / file.name.replace("reviews-", "some-data-")).write_bytes(file.read_bytes())
info = place / "dataset_info.json"
info.write_text(info.read_text().replace('"reviews"', '"some-data"'))
print("null")
"""
READ_DATA = """
import json, sys
from pathlib import Path
from securefl.training.data import load
from securefl.documents.data_source import DataSource
records = load(DataSource.model_validate({"file": sys.argv[1], "heldout": 0}), Path("."), ("bad", "good"))
print(json.dumps([[each.text, each.label] for each in records.train]))
"""
ROWS = "text,label\nlost again,bad\nso kind,good\nquick,good\n"
READ = [["lost again", 0], ["so kind", 1], ["quick", 1]]


def offline(code: str, cache: Path, *argv: str) -> Any:
    environment = {"HF_HOME": str(cache), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, env=environment, check=True, cwd=Path.cwd()
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def cache(small: Small, tmp_path: Path) -> Path:
    """A Hugging Face cache with one model in it, as the hub's own tools leave it."""
    place = tmp_path / "hub" / "models--some-company--some-model"
    revision = "0" * 40
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text(revision)
    snapshot = place / "snapshots" / revision
    snapshot.mkdir(parents=True)
    for file in (small.folder / "model").iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_a_cached_model_is_found_by_its_name(small: Small, cache: Path) -> None:
    by_name, by_path = (offline(LOAD, cache, each) for each in ("some-company/some-model", str(small.folder / "model")))
    assert "digest" in by_name, by_name
    assert by_name == by_path


def test_a_model_that_is_not_cached_is_missed_not_fetched(cache: Path) -> None:
    told = offline(LOAD, cache, "some-company/another-model")
    assert told["exit"] == 2
    assert "nothing is fetched" in str(told["fault"])


def test_a_folder_that_holds_a_data_set_is_read(tmp_path: Path) -> None:
    from pyarrow import csv, parquet

    (tmp_path / "reviews").mkdir()
    (tmp_path / "rows.csv").write_text(ROWS)
    parquet.write_table(csv.read_csv(tmp_path / "rows.csv"), tmp_path / "reviews" / "train.parquet")
    assert offline(READ_DATA, tmp_path / "hf", str(tmp_path / "reviews")) == READ


@pytest.mark.parametrize(("file", "text", "remedy"), [
    ("train.csv", ROWS, "name the file itself: {}"), ("train.tsv", ROWS.replace(",", "\t"), "name the file itself: {}"),
    ("train.jsonl", '{"text": "so kind", "label": "good"}\n', "name the file itself: {}"),
    ("train.json", '{"text": "so kind", "label": "good"}\n', "save it as .csv or .tsv or .tab or .jsonl"),
])  # fmt: skip
def test_a_folder_whose_files_do_not_say_what_their_columns_are_is_refused(
    tmp_path: Path, file: str, text: str, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews" / file).write_text(text)
    with pytest.raises(OperatorFault, match="what a value is depends on other rows") as refused:
        load(DataSource.model_validate({"file": "./reviews", "heldout": 0}), tmp_path, LABELS)
    assert remedy.format(tmp_path / "reviews" / file) in str(refused.value)
    if "name the file" in remedy:
        assert load(DataSource.model_validate({"file": f"./reviews/{file}", "heldout": 0}), tmp_path, LABELS).train


def test_a_cached_data_set_is_found_by_its_name(tmp_path: Path) -> None:
    (tmp_path / "reviews").mkdir()
    (tmp_path / "reviews" / "train.csv").write_text(ROWS)
    offline(CACHE_DATA, tmp_path / "hf", str(tmp_path / "reviews"), str(tmp_path / "hf" / "datasets"))
    assert offline(READ_DATA, tmp_path / "hf", "some-company/some-data") == READ


def test_a_data_set_that_is_not_cached_is_missed_not_fetched(tmp_path: Path) -> None:
    source = DataSource.model_validate({"file": "some-company/some-data"})
    with pytest.raises(Missing, match="nothing is fetched"):
        load(source, tmp_path, LABELS)
