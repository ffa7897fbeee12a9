"""An experiment's picture: accuracy against epsilon, one line and one band for each arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from securefl.audit.plots import BLUE, GREEN, INK, ORANGE, QUIET, RED
from securefl.compare.results import Results, SummaryRow

COLOURS = (BLUE, ORANGE, GREEN, "#6b46c1", "#0f766e", "#97266d", "#744210", INK)
MARKS = "osD^vPX*"


def draw(results: Results, out: Path) -> None:
    """``accuracy.png`` and ``accuracy.svg`` are in ``out``."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    settings: Any = {
        "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
        "svg.hashsalt": "securefl", "svg.fonttype": "none",
        "axes.edgecolor": QUIET, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
        "text.parse_math": False,
    }  # fmt: skip
    with mpl.rc_context(settings):
        figure = Figure(figsize=(7.6, 4.4), layout="constrained")
        _paint(figure.subplots(), results)
        figure.savefig(out / "accuracy.png", dpi=150)
        figure.savefig(out / "accuracy.svg", metadata={"Date": None})


def _paint(axes: Any, results: Results) -> None:  # noqa: ANN401 - matplotlib's axes
    """Epsilons stand at equal distances, in rising order; runs without privacy at the right, behind a line."""
    private = sorted({row.epsilon for row in results.summary if row.epsilon is not None})
    open_ = any(row.epsilon is None for row in results.summary)
    places: dict[float | None, float] = {epsilon: float(place) for place, epsilon in enumerate(private)}
    if open_:
        places[None] = len(private) + 0.3
        if private:
            axes.axvline(len(private) - 0.35, color=QUIET, linewidth=0.8, linestyle=":")
    arms = list(dict.fromkeys(row.arm for row in results.summary))
    for number, arm in enumerate(arms):
        rows = [row for row in results.summary if row.arm == arm and row.accuracy is not None]
        shift = 0.03 * (number - (len(arms) - 1) / 2)
        style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKS[number % len(MARKS)], "markersize": 5}
        _arm(axes, rows, places, shift, {**style, "label": arm})
    known = [row.majority for row in results.summary if row.majority is not None]
    if known:
        majority = sum(known) / len(known)
        axes.axhline(majority, color=RED, linewidth=1.2, linestyle="--", label="majority class")
    axes.set_xticks(list(places.values()), [_tick(epsilon) for epsilon in places])
    axes.set_xlim(-0.4, max(places.values()) + 0.4)
    axes.set_xlabel("epsilon (smaller is more private)")
    axes.set_ylabel("accuracy on held-out rows, mean and\n95 % interval over seeds (bench only)")
    axes.grid(axis="y", color=QUIET, alpha=0.3, linewidth=0.6)
    axes.legend(frameon=False, ncols=min(4, len(arms) + 1), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=8.5)
    missing = results.runs_planned - results.runs_finished
    if missing:
        told = f"{missing} of {results.runs_planned} runs are not in it"
        axes.text(0.99, 0.02, told, transform=axes.transAxes, ha="right", color=RED, fontsize=8.5)


def _arm(
    axes: Any,  # noqa: ANN401
    rows: list[SummaryRow],
    places: dict[float | None, float],
    shift: float,
    style: dict[str, Any],
) -> None:
    inner = sorted((row for row in rows if row.epsilon is not None), key=lambda row: row.epsilon or 0.0)
    spans = [row.accuracy for row in inner if row.accuracy is not None]
    at = [places[row.epsilon] + shift for row in inner]
    label = style.pop("label")
    if inner:
        axes.plot(at, [span.mean for span in spans], linewidth=1.8, label=label, **style)
        low = [span.mean if span.low is None else span.low for span in spans]
        high = [span.mean if span.high is None else span.high for span in spans]
        axes.fill_between(at, low, high, color=style["color"], alpha=0.14, linewidth=0)
    for row in rows:
        span = row.accuracy
        if span is None:
            continue
        place = places[row.epsilon] + shift
        if row.epsilon is None:
            axes.plot([place], [span.mean], linestyle="none", label=None if inner else label, **style)
        if span.low is not None and span.high is not None:
            axes.vlines(place, span.low, span.high, color=style["color"], linewidth=1.2)


def _tick(epsilon: float | None) -> str:
    return "without\nprivacy" if epsilon is None else f"{epsilon:g}"
