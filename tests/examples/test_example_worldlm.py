"""The example's two federations, shortened: made-up texts in place of speeches and chats, two rounds of one step."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path

import pytest
import yaml

from securefl.audit.verify import verify
from securefl.documents import federation_file
from securefl.home.home import Home
from securefl.simulation import federation
from securefl.terms import MemberId

ROOT = Path(__file__).parents[2]
WORDS = "the of and to union states war peace people congress year great government hello what you doing today".split()


def texts(path: Path, column: str, values: list[str]) -> None:
    """Forty texts for each value of a column."""
    drawn = random.Random(column)
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text", column])
        rows.writerows([" ".join(drawn.choices(WORDS, k=9)), value] for value in values for _ in range(40))


@pytest.fixture
def example(tmp_path: Path) -> Path:
    for folder in ("examples/worldlm", "policies"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("sites"))
    data = tmp_path / "build" / "data"
    data.mkdir(parents=True)
    texts(data / "speeches.csv", "year", ["1800", "1840", "1860", "1880", "1900", "1920", "1950", "1970", "2000"])
    found = yaml.safe_load((ROOT / "examples/worldlm/tree.yaml").read_text())["members"][3]["federation"]["members"]
    texts(data / "chats.csv", "sender", [each["data"]["where"]["sender"][0] for each in found])
    return tmp_path / "examples" / "worldlm"


@pytest.mark.parametrize("name", ["federation.yaml", "tree.yaml"])
def test_it_runs_in_a_shortened_form(name, example: Path, tmp_path: Path) -> None:
    document = yaml.safe_load((example / name).read_text())
    document["training"] |= {"rounds": 2, "steps": 1, "sampling_rate": "1/2", "divisor": 20, "max_tokens": 16}
    (example / name).write_text(yaml.safe_dump(document, sort_keys=False))
    loaded = federation_file.load(example / name)
    result = federation.run(loaded, tmp_path / "out", sites=tmp_path / "sites")
    assert result.outcome == "finished", result.why
    assert verify(tmp_path / "out").ok
    told = result.report["accuracy"]
    assert told["measure"] == "nats per token"
    assert told["after"] < told["before"]
    for member in document["members"]:  # in a tree, each federation's
        home = Home.at(next((tmp_path / "sites").rglob(member["name"])), MemberId(member["name"]), lambda: 0)
        with home.transaction() as conn:
            (run,) = {charge.run for charge in home.account(conn).charges}
            assert home.own(conn, run, 99).model
