"""A report's pictures: PNG files, and SVG to stand inside the page."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from securefl.audit.forecast import Outlook

DPI = 150  # dots an inch of the PNG files
INK, QUIET, BLUE, ORANGE, GREEN, RED = "#1b2733", "#9aa7b4", "#2b6cb0", "#c05621", "#2f855a", "#c53030"


SETTINGS: Any = {
    "font.size": 10, "axes.spines.top": False, "axes.spines.right": False,
    "svg.hashsalt": "securefl", "svg.fonttype": "none",
    "axes.edgecolor": QUIET, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "text.parse_math": False,
}  # fmt: skip


def draw(report: dict[str, Any], folder: Path) -> dict[str, str]:
    """Accuracy by member, epsilon by round and bytes by round; each as SVG, and as PNG in ``folder``."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415
    from matplotlib.backends.backend_svg import FigureCanvasSVG  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    folder.mkdir(parents=True, exist_ok=True)
    pictures = {}
    with mpl.rc_context(SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # a name in a script the font lacks is drawn as boxes
        for name, paint in (("accuracy", _accuracy), ("epsilon", _epsilon), ("bytes", _bytes)):
            figure = Figure(figsize=(7.2, 3.4), dpi=DPI, layout="constrained")
            axes = figure.subplots()
            paint(axes, report)
            figure.draw_without_rendering()
            figure.set_layout_engine("none")  # each thing has its place; `savefig` would look for it four times more
            raster: Any = FigureCanvasAgg(figure)
            raster.print_png(folder / f"{name}.png")
            for ground in (figure.patch, axes.patch):
                ground.set_visible(False)  # what is behind it in the page shows through
            svg = io.StringIO()
            vector: Any = FigureCanvasSVG(figure)
            vector.print_svg(svg, metadata={"Date": None})
            pictures[name] = re.sub(r"^.*?(?=<svg)", "", svg.getvalue(), count=1, flags=re.DOTALL)
    return pictures


def _accuracy(axes: Any, report: dict[str, Any]) -> None:  # noqa: ANN401 - matplotlib's axes
    members = report["members"]
    names = [member["name"] for member in members]
    held = [member["heldout"] for member in members]
    places = range(len(names))
    axes.bar([p - 0.2 for p in places], [h["before"] for h in held], 0.38, color=QUIET, label="before")
    axes.bar([p + 0.2 for p in places], [h["after"] for h in held], 0.38, color=BLUE, label="after")
    for key, mark, colour, label in (
        ("local_only", "D", ORANGE, "alone, same noise"),
        ("without_privacy", "^", GREEN, "no privacy"),
    ):
        if all(h[key] is not None for h in held):
            axes.scatter(
                [p + 0.2 for p in places], [h[key] for h in held], marker=mark, color=colour, zorder=3, label=label
            )
    if all(h["majority"] is not None for h in held):
        axes.scatter(
            [p + 0.2 for p in places],
            [h["majority"] for h in held],
            marker="_",
            s=220,
            color=RED,
            zorder=3,
            label="majority class",
        )
        axes.set_ylim(0, 1)
    axes.set_xticks(list(places), names)
    axes.set_ylabel(f"{report['accuracy']['measure']} on held-out rows\n(bench only, not released)")
    axes.legend(
        frameon=False,
        ncols=5,
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        fontsize=8.5,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def _epsilon(axes: Any, report: dict[str, Any]) -> None:  # noqa: ANN401
    rounds = [row for row in report["rounds"] if row["epsilon_after"] is not None]
    limit = report["epsilon"]["limit"]
    axes.axhline(limit, color=RED, linewidth=1.2, linestyle="--")
    axes.annotate(f"limit {limit:g}", (0, limit), xytext=(2, 3), textcoords="offset points", color=RED, fontsize=9)
    axes.step(
        [0, *(row["round"] for row in rounds)],
        [0, *(row["epsilon_after"] for row in rounds)],
        where="post",
        color=BLUE,
        linewidth=2,
    )
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(0, limit * 1.15)
    axes.set_xlabel("round")
    axes.set_ylabel(f"epsilon spent (delta {report['epsilon']['delta']:g})")


def _bytes(axes: Any, report: dict[str, Any]) -> None:  # noqa: ANN401
    rounds = report["rounds"]
    numbers = [row["round"] for row in rounds]
    axes.bar(
        [n - 0.2 for n in numbers],
        [row["bytes_up"] / 1000 for row in rounds],
        0.38,
        color=BLUE,
        label="up, all members",
    )
    axes.bar(
        [n + 0.2 for n in numbers],
        [row["bytes_down"] / 1000 for row in rounds],
        0.38,
        color=QUIET,
        label="down, all members",
    )
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlabel("round")
    axes.set_ylabel("kB")
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))


def draw_forecast(outlook: Outlook, noises: Sequence[Fraction], path: Path) -> None:
    """Epsilon against rounds to come, a line for each noise level, up to the limit; PNG or SVG, as ``path`` ends."""
    import matplotlib as mpl  # noqa: PLC0415
    from matplotlib.figure import Figure  # noqa: PLC0415

    held = min(outlook.spent, key=lambda each: float(each.limit) - outlook.cost(0, Fraction(1), each.events))
    rule, events, limit = held.rule, held.events, held.limit
    with mpl.rc_context(SETTINGS):
        figure = Figure(figsize=(7.2, 3.4), layout="constrained")
        axes: Any = figure.subplots()
        axes.axhline(float(limit), color=RED, linewidth=1.2, linestyle="--", label=f"limit {float(limit):g} ({rule})")
        for noise, colour in zip(noises, (QUIET, BLUE, ORANGE, GREEN, INK), strict=False):
            left, _ = outlook.rounds_left(noise)
            ahead = sorted({round(left * part / 8) for part in range(9)})
            costs = [outlook.cost(rounds, noise, events) for rounds in ahead]
            label = f"noise {float(noise):g}: {left} rounds"
            axes.plot(ahead, costs, color=colour, marker="o", markersize=3, label=label)
        axes.set_xlim(left=0)
        axes.set_ylim(0, float(limit) * 1.15)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel(f"rounds to come ({outlook.member}, {outlook.dataset})")
        axes.set_ylabel(f"epsilon (delta {outlook.delta:g})")
        axes.legend(frameon=False, fontsize=8.5, loc="lower right")
        metadata: Any = {"Date": None} if path.suffix == ".svg" else {}
        figure.savefig(path, dpi=DPI, metadata=metadata)
