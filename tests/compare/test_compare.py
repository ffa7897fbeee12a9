"""Experiments: the grid, its documents, whole sweeps on tiny models, and what they survive."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from securefl.audit.verify import verify
from securefl.compare import results
from securefl.documents import experiment
from securefl.errors import OperatorFault
from tests.simulation.test_run import run_cli
from tests.support.small import MEMBERS, Small, rows

ROOT = Path(__file__).parents[2]
EXPERIMENT = """\
securefl_experiment: 1
name: tiny
federation: shared.yaml
epsilon: [8, none]
seeds: [1, 2]
arms:
  - {name: small-steps, set: {training.learning_rate: 0.05}}
  - name: rank-two
    set:
      adapter.rank: 2
"""


@pytest.fixture(scope="module")
def shared(small: Small) -> Path:
    """A federation whose members share one file in parts, beside the small one."""
    lines = [f"{text},{label}" for name in MEMBERS for text, label in rows(name, 100)]
    (small.folder / "all.csv").write_text("\n".join(["text,label", *lines]) + "\n")
    return small.file(
        "shared.yaml",
        data={"file": "all.csv", "partition": {"dirichlet": 0.5, "at_least": 10}},
        members=[{"name": name, "region": "here"} for name in MEMBERS],
    )


def written(folder: Path, text: str = EXPERIMENT, name: str = "experiment.yaml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture(scope="module")
def done(small: Small, shared: Path, tmp_path_factory) -> Path:
    """The tiny experiment, killed with -9 after its first run, then gone on with to its end."""
    path, out = written(small.folder), tmp_path_factory.mktemp("compare") / "out"
    argv = [sys.executable, "-m", "securefl", "compare", str(path), "--out", str(out), "--jobs", "2", "--json"]
    process = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 1200
    while not list(out.glob("runs/*/run/report.json")) and process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    process.kill()
    process.wait()
    over = {path: path.stat().st_mtime_ns for path in out.glob("runs/*/run/report.json")}
    assert 0 < len(over) < 8, "killed after the first run and before the last"
    again = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=1800)
    assert again.returncode == 0, again.stderr
    assert f"{len(over)} of 8 runs are over already" in again.stderr
    assert "8 of 8 runs" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in over} == over, "a finished run was repeated"
    (out.parent / "told.json").write_text(again.stdout)
    return out


def test_every_run_of_the_grid_is_in_the_results_and_their_shape_is_the_promised_one(done: Path) -> None:
    told = json.loads((done / "results.json").read_text())
    found = results.Results.model_validate(told)
    assert (found.runs_planned, found.runs_finished) == (8, 8)
    assert {(run.arm, run.epsilon, run.seed) for run in found.runs} == {
        (arm, epsilon, seed) for arm in ("small-steps", "rank-two") for epsilon in (8, None) for seed in (1, 2)
    }
    for row in found.summary:
        mine = [run.accuracy for run in found.runs if (run.arm, run.epsilon) == (row.arm, row.epsilon)]
        assert (row.runs, row.of) == (2, 2)
        assert row.accuracy.mean == pytest.approx(sum(mine) / 2)
        assert row.accuracy.low <= row.accuracy.mean <= row.accuracy.high
    printed = json.loads((done.parent / "told.json").read_text())
    assert {key: printed[key] for key in told} == told
    assert "bench only" in told["accuracy_is"]
    text = (done / "table.txt").read_text()
    assert "8 of 8 runs" in text
    (sum_,) = found.together
    spent = [run.spent_epsilon for run in found.runs if run.private]
    assert (sum_.unit, sum_.runs, sum_.delta) == ("record", 4, 1e-5)
    assert max(spent) < sum_.epsilon < sum(spent), "more than one run, and less than plain addition says"
    assert (
        f"all 4 private runs together, had they been released on the same records: epsilon {sum_.epsilon:.2f}" in text
    )
    assert "without privacy" in text
    assert "majority class" in text


def test_every_private_run_verifies_and_spends_a_budget_of_its_own(done: Path) -> None:
    found = json.loads((done / "results.json").read_text())
    private = [run for run in found["runs"] if run["private"]]
    assert len(private) == 4
    for run in private:
        folder = done / run["report"]
        assert verify(folder.parent).ok
        assert 7 < run["spent_epsilon"] <= 8
        report = json.loads(folder.read_text())
        assert report["epsilon"]["spent"] == run["spent_epsilon"]
        assert (folder.parent.parent / "sites" / "north" / "ledger.db").exists()
    identities = {
        (done / run["report"]).parent.parent.joinpath("sites/north/identity.key").read_bytes() for run in private
    }
    assert len(identities) == 4


def test_a_run_without_privacy_says_so_and_has_no_ledger_and_no_budget(done: Path) -> None:
    found = json.loads((done / "results.json").read_text())
    for run in found["runs"]:
        if not run["private"]:
            assert (run["epsilon"], run["spent_epsilon"]) == (None, None)
            assert "without privacy" in run["why"]
            assert json.loads((done / run["report"]).read_text())["privacy"].startswith("without privacy")
            assert not (done / run["report"]).parent.joinpath("ledger").exists()


def test_the_pictures_are_there_and_are_not_blank(done: Path) -> None:
    from matplotlib.image import imread

    picture = imread(done / "accuracy.png")
    assert picture.shape[0] > 300
    assert len({tuple(pixel) for pixel in picture[::3, ::3, :3].reshape(-1, 3).tolist()}) > 30
    svg = (done / "accuracy.svg").read_text()
    for word in ("small-steps", "rank-two", "majority class", "epsilon", "bench only"):
        assert word in svg


def test_a_seed_changes_the_split_and_the_rest_of_the_grid_does_not(small: Small, shared: Path) -> None:
    from securefl.simulation import parties

    loaded = experiment.load(written(small.folder))

    def split(of) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(r.text for r in parties.records_of(of, name).train) for name in MEMBERS)

    by_seed = {}
    for cell, of in loaded.runs:
        by_seed.setdefault(cell.seed, set()).add((split(of), of.file.adapter.seed))
    assert [len(each) for each in by_seed.values()] == [1, 1]
    assert by_seed[1] != by_seed[2]
    assert {seed for each in by_seed.values() for _, seed in each} == {1, 2}


def test_a_changed_experiment_is_refused_in_the_same_folder(done: Path, small: Small, capsys) -> None:
    path = written(small.folder, EXPERIMENT.replace("seeds: [1, 2]", "seeds: [1, 2, 3]"), "changed.yaml")
    code, _, told = run_cli(capsys, "compare", path, "--out", done)
    assert code == 2
    assert "the experiment file differs" in told
    assert "choose another --out" in told


def test_a_folder_with_something_else_in_it_is_refused(small: Small, shared: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "thesis.tex").write_text("")
    code, _, told = run_cli(capsys, "compare", written(small.folder), "--out", tmp_path)
    assert code == 2
    assert "holds no experiment" in told
    assert [path.name for path in tmp_path.iterdir() if path.name != ".lock"] == ["thesis.tex"]


def test_a_refused_and_a_failed_run_are_shown_and_never_dropped(
    small: Small, shared: Path, tmp_path: Path, capsys
) -> None:
    text = EXPERIMENT.replace("epsilon: [8, none]", "epsilon: [8, 1000]").replace("seeds: [1, 2]", "seeds: [1]")
    text = text.replace("adapter.rank: 2", "adapter.targets: [nothing]")
    code, out, _ = run_cli(capsys, "compare", written(small.folder, text, "hard.yaml"), "--out", tmp_path / "out")
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    status = {(run["arm"], run["epsilon"]): (run["status"], run["accuracy"]) for run in found["runs"]}
    assert status["small-steps", 8][0] == "finished"
    assert status["small-steps", 1000] == ("refused", None)
    assert status["rank-two", 8] == status["rank-two", 1000] == ("failed", None)
    assert code == 3
    assert "NOT in it: small-steps, epsilon 1000, seed 1: refused" in out
    assert "no layer `nothing`" in out
    assert "1 of 4 runs are in the table" in out
    assert [row["runs"] for row in found["summary"]] == [1, 0, 0, 0]


def test_a_report_that_no_ledger_bears_out_is_refused_by_name(
    small: Small, shared: Path, tmp_path: Path, capsys
) -> None:
    text = EXPERIMENT.replace("seeds: [1, 2]", "seeds: [1]")
    loaded = experiment.load(written(small.folder, text, "poisoned.yaml"))
    policy = small.folder / loaded.base.file.policy
    parts = {"experiment": loaded.text, "federation": loaded.base.written, "policy": policy.read_bytes()}
    for cell, _ in loaded.runs:
        out = tmp_path / cell.name
        run = out / "runs" / cell.name / "run"
        run.mkdir(parents=True)
        digests = {name: hashlib.sha256(part).hexdigest() for name, part in parts.items()}
        (out / "experiment.json").write_text(json.dumps(digests))
        best = {"after": 0.999, "macro_f1": 0.999, "majority": 0.5}
        told = {"outcome": {"status": "finished", "why": "x"}, "seconds": {"total": 1}, "accuracy": best}
        (run / "report.json").write_text(json.dumps(told | {"epsilon": {"spent": 0.01}}))
        code, _, message = run_cli(capsys, "compare", small.folder / "poisoned.yaml", "--out", out)
        assert (code, f"runs/{cell.name}/run" in message) == (4, True), message
        assert not (out / "results.json").exists()


def test_an_interrupt_leaves_the_finished_runs_and_says_how_to_go_on(
    small: Small, shared: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    argv = [sys.executable, "-m", "securefl", "compare", str(written(small.folder)), "--out", str(out), "--jobs", "1"]
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)  # whoever started this may ignore it
    process = subprocess.Popen(
        argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
    )
    deadline = time.monotonic() + 1200
    while not list(out.glob("runs/*/run/report.json")) and time.monotonic() < deadline:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, told = process.communicate(timeout=600)
    assert process.returncode == 130
    assert "the same command goes on" in told
    found = json.loads((out / "results.json").read_text())
    assert {run["status"] for run in found["runs"]} >= {"not run"}


def test_runs_without_privacy_can_have_fields_of_their_own(small: Small, shared: Path) -> None:
    text = EXPERIMENT.replace("adapter.rank: 2", "adapter.rank: 2\n    without_privacy: {training.learning_rate: 0.03}")
    text += "without_privacy: {training.learning_rate: 0.02, strategy.momentum: 0.5}\n"
    found = {
        (cell.arm, cell.epsilon is None): (str(of.file.training.learning_rate), str(of.file.strategy.momentum))
        for cell, of in experiment.load(written(small.folder, text, "fields.yaml")).runs
    }
    assert found == {
        ("small-steps", False): ("1/20", "0"), ("small-steps", True): ("1/50", "1/2"),
        ("rank-two", False): ("1/10", "0"), ("rank-two", True): ("3/100", "1/2"),
    }  # fmt: skip


BAD = [
    ("an unknown field", ("seeds: [1, 2]", "seeds: [1, 2]\nseed: 3"), r"experiment.yaml:6: seed: unknown key; did you mean `seeds`"),
    ("an override nobody knows", ("adapter.rank: 2", "adapter.rang: 2"), r"experiment.yaml:10: adapter.rang: unknown key; did you mean `rank`"),
    ("an override into nothing", ("adapter.rank: 2", "model.size: 2"), r"experiment.yaml:10: arms.1.set.model.size: nothing is called `size` in `model`"),
    ("an override of another kind", ("adapter.rank: 2", "adapter.rank: two"), r"experiment.yaml:10: adapter.rank: found 'two'"),
    ("an override into a list", ("adapter.rank: 2", "members.7.region: x"), r"experiment.yaml:10: arms.1.set.members.7.region: nothing is called `7` in `members`"),
    ("data nobody knows", ("adapter.rank: 2", "data.colour: red"), r"experiment.yaml:\d+: (members.0.)?data.colour"),
    ("what the grid decides", ("adapter.rank: 2", "adapter.seed: 2"), r"experiment.yaml:10: arms.1.set.adapter.seed: the experiment itself decides"),
    ("what the grid decides, from above", ("adapter.rank: 2", "training: {}"), r"experiment.yaml:10: .* the experiment itself decides"),
    ("no epsilon", ("epsilon: [8, none]", "epsilon: []"), r"experiment.yaml:4: epsilon: .*at least 1"),
    ("an epsilon of nought", ("epsilon: [8, none]", "epsilon: [0]"), r"experiment.yaml:4: epsilon.0: found 0; it should be above 0, or none"),
    ("a word for an epsilon", ("epsilon: [8, none]", "epsilon: [nona]"), r"experiment.yaml:4: epsilon.0: found 'nona'; it should be above 0, or none"),
    ("no seeds", ("seeds: [1, 2]", "seeds: []"), r"experiment.yaml:5: seeds: .*at least 1"),
    ("an arm twice", ("name: rank-two", "name: small-steps"), r"experiment.yaml:8: arms.1: small-steps stands twice"),
    ("a seed twice", ("seeds: [1, 2]", "seeds: [2, 2]"), r"experiment.yaml:5: seeds.1: 2 stands twice"),
    ("an epsilon twice", ("epsilon: [8, none]", "epsilon: [8, none, 8.0]"), r"experiment.yaml:4: epsilon.2: 8 stands twice"),
    ("no such federation", ("shared.yaml", "absent.yaml"), r"absent.yaml: cannot be read"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "change", "message"), BAD, ids=[case[0] for case in BAD])
def test_what_cannot_be_meant_is_refused_with_file_and_line(
    small: Small, shared: Path, tmp_path: Path, capsys, case, change, message
) -> None:
    del case
    assert change[0] in EXPERIMENT
    path = written(small.folder, EXPERIMENT.replace(*change))
    with pytest.raises(OperatorFault, match=message):
        experiment.load(path)
    code, _, _ = run_cli(capsys, "compare", path, "--out", tmp_path / "out")
    assert code == 2
    assert not (tmp_path / "out").exists()


def test_the_experiments_of_this_project_are_well_formed() -> None:
    found = sorted((ROOT / "audits" / "utility").glob("*.yaml"))
    assert found
    for path in found:
        if "securefl_experiment" in yaml.safe_load(path.read_text()):
            assert len(experiment.load(path).runs) == {"longer": 30, "heads": 20}.get(path.stem, 100)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=40))
def test_an_interval_is_students(values) -> None:
    stats = pytest.importorskip("scipy.stats")
    found = results.spread(values)
    assert found.low <= found.mean + 1e-12
    assert found.mean <= found.high + 1e-12
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    assert found.high - found.mean >= half - 1e-4 * half - 1e-12
    if len(values) <= 31:
        assert found.high - found.mean == pytest.approx(half, rel=1e-4, abs=1e-9)
