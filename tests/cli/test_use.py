"""Results that one can use: predictions and scores of a run's own model, and the code beside its adapter."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from securefl import __version__
from tests.simulation.test_run import run_cli
from tests.support.small import Small, rows

TEXTS = ["my flight was lovely", "late again, rude"]


@pytest.fixture(scope="module")
def model(small: Small) -> str:
    return str(small.folder / "model")


def asked(capsys, *argv: object) -> tuple[int, str]:
    code, out, told = run_cli(capsys, *argv)
    return code, out + told


def test_a_runs_own_model_answers_texts(finished: Path, model: str, tmp_path: Path, capsys) -> None:
    (tmp_path / "texts.csv").write_text("id;words\n" + "\n".join(f"{n};{text}" for n, text in enumerate(TEXTS)))
    given = ("predict", finished / "run", tmp_path / "texts.csv", "--column", "words", "--model", model, "--json")
    code, out = asked(capsys, *given)
    answers = json.loads(out)["answers"]
    assert code == 0
    assert [each["row"] for each in answers] == [0, 1]
    assert all(each["probabilities"][each["label"]] == max(each["probabilities"].values()) for each in answers)
    code, out = asked(capsys, "predict", finished / "run", "--text", TEXTS[1], "--model", model)
    assert (code, out.split()) == (0, ["0", answers[1]["label"]])


def test_scores_on_rows_of_ones_own_are_those_of_the_answers(
    finished: Path, model: str, tmp_path: Path, capsys
) -> None:
    held = [(text, {"bad": "0", "good": "1"}[label]) for text, label in rows("elsewhere", 30)]
    with (tmp_path / "own.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "stars"), *held])
    given = (finished / "run", tmp_path / "own.csv", "--model", model, "--json")
    renamed = ("--label", "stars", "--rename", "0=bad", "--rename", "1=good")
    told = json.loads(asked(capsys, "evaluate", *given, *renamed)[1])
    answers = [each["label"] for each in json.loads(asked(capsys, "predict", *given)[1])["answers"]]
    right = {text: {"0": "bad", "1": "good"}[label] == said for (text, label), said in zip(held, answers, strict=True)}
    assert told["n"] == len(right)
    assert told["accuracy"] == pytest.approx(sum(right.values()) / len(right))
    assert told["rows"].startswith("30 rows: ")
    code, said = asked(capsys, "evaluate", *given[:-1], "--label", "stars")
    assert (code, "`stars` is '" in said, "one of bad, good is expected" in said) == (2, True, True)


def test_another_model_another_state_and_no_run_are_refused_by_name(
    finished: Path, tmp_path: Path, model: str, capsys
) -> None:
    shutil.copytree(finished / "run", tmp_path / "run")
    shutil.copytree(model, tmp_path / "other")
    config = tmp_path / "other" / "config.json"
    config.write_text(config.read_text().replace("}", " }"))
    for argv, code, words in (
        (("--model", tmp_path / "other"), 2, "and this one is"), ((), 2, "give its folder with --model"),
        (("--model", model, "--task", "mood"), 2, "leave --task out"),
    ):  # fmt: skip
        assert asked(capsys, "predict", tmp_path / "run", "--text", "x", *argv)[0] == code
        assert words in asked(capsys, "predict", tmp_path / "run", "--text", "x", *argv)[1]
    state = tmp_path / "run" / "adapter" / "released.f32"
    state.write_bytes(state.read_bytes()[:-1] + b"\1")
    code, told = asked(capsys, "predict", tmp_path / "run", "--text", "x", "--model", model)
    assert (code, "not the one that was released" in told) == (4, True)
    state.unlink()
    assert asked(capsys, "predict", tmp_path / "run", "--text", "x", "--model", model)[0] == 2
    (tmp_path / "labelled.csv").write_text("text,label\nx,good\n")
    code, told = asked(capsys, "evaluate", tmp_path, tmp_path / "labelled.csv")
    assert (code, "no run" in told) == (2, True)


def test_the_code_beside_an_adapter_runs_as_it_is_written_in_a_process_of_its_own(
    finished: Path, small: Small, tmp_path: Path, capsys, model: str
) -> None:
    """The federation's file calls the base ./model, which says nothing where the adapter lies."""
    page = (finished / "run" / "adapter" / "README.md").read_text()
    assert "in this folder, with the folder of the base model as its argument:" in page
    assert "`AutoModelForSequenceClassification` would put a head of its own on" in page
    shutil.copytree(finished / "run" / "adapter", tmp_path / "adapter")
    (tmp_path / "use.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])  # type: ignore[index]
    done = subprocess.run(
        [sys.executable, str(tmp_path / "use.py"), model], cwd=tmp_path / "adapter", capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    told = asked(capsys, "predict", finished / "run", "--text", "my flight was cancelled", "--model", model)[1]
    assert done.stdout.split()[-1] == told.split()[-1]


def test_the_version_is_said(capsys) -> None:
    assert asked(capsys, "--version") == (0, f"securefl {__version__}\n")
