"""What `init` writes is well formed, passes its own cases and the dry run, and trains end to end."""

from __future__ import annotations

import io
import json
import os
import re
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from securefl.audit.verify import verify
from securefl.cli.main import main
from securefl.documents import site_file
from securefl.documents.data_source import DataSource
from securefl.policy import cases
from securefl.simulation import init
from securefl.site.check import WRONG
from securefl.site.check import examine as examine_site
from securefl.training import data
from tests.support.small import MEMBERS, rows, save_model

LABELS = ("true", "false", "NaN", "null", "true")
WORDS = re.compile(r"^[$] securefl (.*)$", re.MULTILINE)
TOLD = (Path(__file__).parents[2] / "docs" / "first-federation.md").read_text()
PAGE = {words.split()[0]: words.split() for words in WORDS.findall(TOLD)}  # the page's commands, by their first word


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder with data files and a model of somebody's own, and what `init` made of them in the folder `desk`."""
    here = tmp_path_factory.mktemp("own")
    save_model(here / "mymodel")
    for name in MEMBERS:
        lines = ["message,topic", *(f"{text},{label}" for text, label in rows(name, 50)), "no topic here,"]
        (here / f"{name}.csv").write_text("\n".join(lines) + "\n")
    before = Path.cwd()
    os.chdir(here)
    try:
        main(PAGE["init"])
    except SystemExit as ended:
        assert ended.code in (0, None)
    finally:
        os.chdir(before)
    return here / "desk"


def test_what_it_writes_is_commented_and_names_its_schemas(made) -> None:
    for name, kind in {"federation.yaml": "federation", "policy.yaml": "policy"}.items():
        first, *_ = text = (made / name).read_text().splitlines()
        assert first == f"# yaml-language-server: $schema=schemas/{kind}.schema.json"
        assert json.loads((made / "schemas" / f"{kind}.schema.json").read_text())["properties"]
        assert sum("#" in line for line in text) > 8
    document = yaml.safe_load((made / "federation.yaml").read_text())
    assert document["task"]["labels"] == ["bad", "good"]
    assert document["adapter"]["targets"] == ["query", "value"]
    assert document["data"] == {"text": "message", "label": "topic", "unlabelled": "drop"}
    assert document["training"]["divisor"] in (10, 20) and document["training"]["max_tokens"] == 16


def test_its_policys_cases_hold_and_every_party_has_a_document(made) -> None:
    outcomes = cases.run(made / "policy.yaml")
    assert len(outcomes) == 5 and all(each.ok for each in outcomes), outcomes
    for name in MEMBERS:
        found = examine_site(site_file.load(made / "parties" / name / "site.yaml"))
        assert [each for each in found if each.status == WRONG] == []
        assert not (made / "parties" / name / "home").exists(), "no home was made"


def test_it_passes_the_dry_run_and_trains_end_to_end(made, capsys, monkeypatch) -> None:
    file = made / "federation.yaml"
    text = file.read_text()
    file.write_text(text.replace("rounds: 10", "rounds: 1").replace("steps: 8", "steps: 1"))  # cheaper, and no less
    monkeypatch.chdir(made.parent)
    try:
        main(PAGE["policy"])
    except SystemExit as ended:
        assert ended.code in (0, None)
    assert "5 cases, 0 failed" in capsys.readouterr().out
    try:
        main([*PAGE["check"], "--json"])
    except SystemExit as ended:
        assert ended.code in (0, None), capsys.readouterr().out
    told = json.loads(capsys.readouterr().out)
    assert told["ok"], told
    file.write_text(re.sub("epsilon: 8 .*", "noise_multiplier: 3", file.read_text()))  # cheaper, too
    try:
        main([*PAGE["run"], "--json"])
    except SystemExit as ended:
        assert ended.code in (0, None), capsys.readouterr()
    assert json.loads(capsys.readouterr().out)["outcome"]["status"] == "finished"
    assert verify(made.parent / "run").ok
    assert {path.name for path in (made / "sites").iterdir()} >= {*MEMBERS, "coordinator"}
    file.write_text(text)


def run_init(*words: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["init", *words])
    return int(ended.value.code or 0)


def test_at_a_terminal_it_asks_for_what_is_not_given(made, tmp_path, capsys, monkeypatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.chdir(made.parent)
    monkeypatch.setattr("sys.stdin", Terminal("north.csv, south.csv, west.csv\nmessage\n\nmymodel\n"))
    assert run_init(str(tmp_path / "asked"), "--label", "topic", "--target", "nowhere", "--epsilon", "8") == 2
    said = capsys.readouterr().err
    assert "data files" in said and "column with the text [text]" in said and "model" in said
    assert "nowhere" in said, "then it goes on with the answers"


def test_nothing_is_written_over_and_what_is_missing_is_named(made, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(made.parent)
    own = [
        "--data",
        "north.csv",
        "--data",
        "south.csv",
        "--data",
        "west.csv",
        "--text",
        "message",
        "--model",
        "mymodel",
    ]
    before = {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    assert run_init("desk", *own, "--label", "topic", "--epsilon", "8") == 2
    assert "would be written over" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in made.rglob("*") if path.is_file()}
    elsewhere = str(tmp_path / "new")
    assert run_init(elsewhere, *own, "--label", "subject", "--epsilon", "8") == 2
    assert "the columns are message, topic" in capsys.readouterr().err
    assert run_init(elsewhere, *own, "--label", "topic", "--epsilon", "none") == 2
    assert run_init(elsewhere, *own, "--epsilon", "8") == 2
    assert "--label is missing" in capsys.readouterr().err
    assert (
        run_init(elsewhere, *own[:4], "--text", "message", "--label", "topic", "--model", "mymodel", "--epsilon", "8")
        == 2
    )
    assert "2 members" in capsys.readouterr().err
    assert run_init(elsewhere, *own, "--label", "message", "--epsilon", "8") == 2
    assert not (tmp_path / "new").exists()


def test_labels_are_read_by_the_rule_that_records_are_read_by(tmp_path) -> None:
    """True and false as the file writes them; NaN and null are no label, and no member of the list of labels."""
    file = tmp_path / "west.jsonl"
    file.write_text("\n".join(f'{{"text": "words {n}", "label": {label}}}' for n, label in enumerate(LABELS)) + "\n")
    asked = init.Asked((file,), "text", "label", "./model", ("west",), Fraction(8), "desk")
    labels, has_unlabelled = init._labels(asked)
    assert (labels, has_unlabelled) == (("false", "true"), True)
    source = DataSource.model_validate({"file": str(file), "heldout": 0, "unlabelled": "drop"})
    records = data.load(source, tmp_path, labels)
    assert {labels[each.label] for each in records.train} == {"false", "true"}
    assert len(records.train) == 3
