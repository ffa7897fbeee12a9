"""What an experiment found: every run, and per arm and epsilon the mean with its interval; as JSON and as a table.

Accuracy is a statistic of this bench over all members' held-out rows. The interval speaks of seeds: of the public
choices a seed makes and of fresh noise, not of other data.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from securefl.compare.composed_cost import Total
from securefl.compare.run_cell import Outcome
from securefl.documents.experiment import Cell, Experiment
from securefl.shown import in_json, on_screen

NOTE = "accuracy on all members' held-out rows: bench only, not released; choosing by it is paid by no epsilon here"
SEEDS = "a seed decides what is public: A, the split over members, open training's samples; private noise is fresh"
TOGETHER = "each run is charged to a budget of its own; together: all of them released, on the same records, by PLD"
OPENLY = "epsilon null: trained without privacy, outside policy and budget"
# 97.5 % quantiles of Student's t at 1 to 30 degrees of freedom; beyond 30 the last is a little too wide
STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
    2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484,
    2.0452, 2.0423,
)  # fmt: skip


class Part(BaseModel):
    """A part of the results; nothing unknown stands in it."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunRow(Part):
    """One run."""

    arm: str
    epsilon: float | None
    private: bool
    seed: int
    status: str
    why: str
    accuracy: float | None
    macro_f1: float | None
    majority: float | None
    spent_epsilon: float | None
    seconds: float | None
    report: str | None


class Spread(Part):
    """A mean over seeds. With one seed there is no deviation and no interval."""

    mean: float
    deviation: float | None
    low: float | None  # of the 95 % interval, Student's t
    high: float | None


class SummaryRow(Part):
    """All seeds of one arm at one epsilon."""

    arm: str
    epsilon: float | None
    private: bool
    runs: int  # finished, and counted below
    of: int
    accuracy: Spread | None
    macro_f1: Spread | None
    majority: float | None
    spent_epsilon: float | None  # the largest
    seconds: float | None  # the mean


class Together(Part):
    """What the private runs of one unit would cost together, had they trained on the same records."""

    unit: str
    runs: int  # with charges, also of those that did not finish
    epsilon: float | None  # None: no finite one
    delta: float


class Results(Part):
    """Everything an experiment tells."""

    experiment: str
    federation: str
    accuracy_is: str = NOTE
    seeds_decide: str = SEEDS
    without_privacy: str = OPENLY
    together_is: str = TOGETHER
    together: list[Together] = []
    runs_planned: int
    runs_finished: int
    runs: list[RunRow]
    summary: list[SummaryRow]


def of(experiment: Experiment, outcomes: Sequence[Outcome], totals: Sequence[Total] = ()) -> Results:
    """The results, in the order of the document; a run that has not ended is a row that says so."""
    by_cell = {outcome.cell: outcome for outcome in outcomes}
    cells = sorted((cell for cell, _ in experiment.runs), key=lambda cell: _order(experiment, cell))
    known = [by_cell.get(cell, Outcome(cell, "not run", "interrupted before it began or ended")) for cell in cells]
    rows = [
        SummaryRow.model_validate(
            _summary([each for each in known if (each.cell.arm, each.cell.epsilon) == (arm, epsilon)])
        )
        for arm, epsilon in dict.fromkeys((cell.arm, cell.epsilon) for cell in cells)
    ]
    return Results(
        experiment=experiment.file.name,
        federation=experiment.base.file.name,
        together=[Together.model_validate(asdict(total)) for total in totals],
        runs_planned=len(known),
        runs_finished=sum(each.status == "finished" for each in known),
        runs=[_row(each) for each in known],
        summary=rows,
    )


def _order(experiment: Experiment, cell: Cell) -> tuple[int, int, int]:
    arms = [arm.name for arm in experiment.file.arms]
    epsilons, seeds = experiment.file.epsilon, experiment.file.seeds
    return arms.index(cell.arm), epsilons.index(cell.epsilon), seeds.index(cell.seed)


def _row(outcome: Outcome) -> RunRow:
    cell = outcome.cell
    return RunRow(
        arm=cell.arm, epsilon=_number(cell), private=cell.epsilon is not None, seed=cell.seed, status=outcome.status,
        why=outcome.why, accuracy=outcome.accuracy, macro_f1=outcome.macro_f1, majority=outcome.majority,
        spent_epsilon=outcome.spent_epsilon, seconds=outcome.seconds, report=outcome.report,
    )  # fmt: skip


def _number(cell: Cell) -> float | None:
    return None if cell.epsilon is None else float(cell.epsilon)


def _summary(outcomes: Sequence[Outcome]) -> dict[str, object]:
    cell = outcomes[0].cell
    ended = [each for each in outcomes if each.status == "finished"]

    def known(name: str) -> list[float]:
        return [value for each in ended if (value := getattr(each, name)) is not None]

    majority, spent, seconds = known("majority"), known("spent_epsilon"), known("seconds")
    return {
        "arm": cell.arm,
        "epsilon": _number(cell),
        "private": cell.epsilon is not None,
        "runs": len(ended),
        "of": len(outcomes),
        "accuracy": spread(known("accuracy")),
        "macro_f1": spread(known("macro_f1")),
        "majority": statistics.fmean(majority) if majority else None,
        "spent_epsilon": max(spent, default=None),
        "seconds": round(statistics.fmean(seconds), 3) if seconds else None,
    }


def spread(values: Sequence[float]) -> Spread | None:
    """Mean, standard deviation (n - 1) and 95 % interval (Student's t); None for no values."""
    if not values:
        return None
    mean = statistics.fmean(values)
    if len(values) == 1:
        return Spread(mean=mean, deviation=None, low=None, high=None)
    deviation = statistics.stdev(values)
    half = STUDENT[min(len(values) - 2, len(STUDENT) - 1)] * deviation / math.sqrt(len(values))
    return Spread(mean=mean, deviation=deviation, low=mean - half, high=mean + half)


def table(results: Results) -> str:
    """Return what a person reads: accuracy and macro-F1 per arm and epsilon, and every run that is not in them."""
    columns = list(dict.fromkeys(row.epsilon for row in results.summary))
    arms = list(dict.fromkeys(row.arm for row in results.summary))
    heads = ["without privacy" if each is None else f"epsilon {each:g}" for each in columns]
    wide = max(len(arm) for arm in (*arms, "majority class")) + 2
    cells = {(row.arm, row.epsilon): row for row in results.summary}
    lines = [f"{results.experiment}: {NOTE}"]
    for title, name in (("accuracy", "accuracy"), ("macro-F1", "macro_f1")):
        lines += ["", f"{title:<{wide}}" + "".join(f"{head:>22}" for head in heads)]
        for arm in arms:
            told = (_told(cells[arm, epsilon], name) for epsilon in columns)
            lines.append(f"{arm:<{wide}}" + "".join(f"{each:>22}" for each in told))
        if name == "accuracy":
            majority = {row.epsilon: row.majority for row in results.summary if row.majority is not None}
            lines.append(
                f"{'majority class':<{wide}}"
                + "".join(f"{majority[each]:>22.3f}" if each in majority else f"{'-':>22}" for each in columns)
            )
    seconds = [run.seconds for run in results.runs if run.seconds is not None]
    lines += [
        "",
        "mean over seeds +- half of the 95 % interval (Student's t)",
        SEEDS,
        f"{results.runs_finished} of {results.runs_planned} runs are in the table"
        + (f"; {statistics.fmean(seconds):.1f} s each on average" if seconds else ""),
    ]
    lines += [
        f"all {each.runs} private runs together, had they been released on the same records: "
        + (f"epsilon {each.epsilon:.2f}" if each.epsilon is not None else "no finite epsilon")
        + f" at delta {each.delta:g}, {each.unit} level"
        for each in results.together
    ]
    left_out = [run for run in results.runs if run.status != "finished"]
    lines += [
        f"NOT in it: {run.arm}, {_epsilon(run.epsilon)}, seed {run.seed}: {run.status}: {run.why}" for run in left_out
    ]
    return "\n".join(lines)


def _epsilon(epsilon: float | None) -> str:
    return "without privacy" if epsilon is None else f"epsilon {epsilon:g}"


def _told(row: SummaryRow, name: str) -> str:
    found: Spread | None = getattr(row, name)
    if found is None:
        return f"- (0 of {row.of})"
    half = "" if found.high is None else f" +- {found.high - found.mean:.3f}"
    return f"{found.mean:.3f}{half}" + ("" if row.runs == row.of else f" ({row.runs} of {row.of})")


def write(results: Results, out: Path) -> str:
    """``results.json`` and ``table.txt`` are in ``out``; the table."""
    text = table(results)
    for name, content in (
        ("results.json", in_json(results.model_dump(mode="json"))),
        ("table.txt", on_screen(text) + "\n"),
    ):
        beside = out / (name + ".new")
        beside.write_text(content, encoding="utf-8")
        beside.replace(out / name)
    return text
