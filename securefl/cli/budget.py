"""`securefl budget`: what was spent, and how long the rest lasts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.options import Json, group, show

budget_app = group("What was spent, and what is left.")
NUMBERS = ("limit", "spent", "reserved", "left", "delta")


@budget_app.command("show")
def budget_show(
    ledger: Annotated[Path, typer.Argument(help="A run, its ledger folder, or one .ledger file.")],
    as_json: Json = False,
) -> None:
    """Limit, spent, reserved and left, for each account."""
    from securefl.audit import replay  # noqa: PLC0415

    accounts = replay.accounts(ledger)
    head = f"{'member':<16}{'level':<12}{'name':<20}" + "".join(f"{each:>10}" for each in NUMBERS) + "  unit"
    rows = [
        f"{a['member']:<16}{a['level']:<12}{a['name']:<20}{a['limit']:>10.4f}{a['spent']:>10.4f}{a['reserved']:>10.4f}"
        f"{a['left']:>10.4f}{a['delta']:>10.0e}  {a['unit']}"
        for a in accounts
    ]
    waiting = replay.reserved(ledger)
    told = [
        f"{each['member']}: round {each['round']} of run {each['run']} is reserved until the run goes on; if it never "
        f"will: securefl budget settle HOME {each['run'][:12]} --reason TEXT"
        for each in waiting
    ]
    show(as_json, {"accounts": accounts, "reserved": waiting}, "\n".join([head, *rows, *told]))


@budget_app.command("settle")
def budget_settle(
    home: Annotated[Path, typer.Argument(help="The home of the site whose price is reserved.")],
    run: Annotated[str, typer.Argument(help="The run's name, or how it begins; `budget show` has it.")],
    reason: Annotated[str, typer.Option(help="Why; it stands in the signed ledger.")],
    as_json: Json = False,
) -> None:
    """Settle whole what a run has reserved and left: its training ended with its process."""
    from securefl.home.clock import clock  # noqa: PLC0415
    from securefl.site.open_reservations import settle  # noqa: PLC0415

    done = settle(home, run, reason, clock)
    charge = done.charge
    answer = {
        "run": charge.run.hex(), "round": charge.round, "federation": charge.federation, "dataset": charge.dataset,
        "epsilon": charge.cost / 1_000_000, "reason": done.reason,
    }  # fmt: skip
    text = f"round {charge.round} of run {charge.run.hex()} is spent, whole: epsilon {charge.cost / 1_000_000:g}"
    show(as_json, answer, text)


@budget_app.command("forecast")
def budget_forecast(
    ledger: Annotated[Path, typer.Argument(help="A run, its ledger folder, or one .ledger file.")],
    noise: Annotated[list[float] | None, typer.Option(help="A noise multiplier; may be given several times.")] = None,
    rounds: Annotated[list[int] | None, typer.Option(help="More rounds; may be given several times.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Where a picture goes: .png or .svg.")] = None,
    as_json: Json = False,
) -> None:
    """Rounds left at a noise level, and the noise that more rounds need, if they are like the last one."""
    from fractions import Fraction  # noqa: PLC0415

    from securefl.audit import forecast, plots  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415

    if any(not 0 < each <= forecast.LIMIT_NOISE for each in noise or ()) or any(each < 1 for each in rounds or ()):
        remedy = f"give noise in (0, {forecast.LIMIT_NOISE}] and at least one round"
        raise OperatorFault("a forecast of nothing", remedy, "--noise or --rounds")
    if plot is not None and plot.suffix not in (".png", ".svg"):
        raise OperatorFault(f"no picture ends in {plot.suffix!r}", "end it in .png or .svg", str(plot))
    rows, lines = [], []
    for each in (outlooks := forecast.outlooks(ledger)):
        levels = [Fraction(str(value)) for value in noise] if noise else list(each.levels)
        left = [(level, *each.rounds_left(level)) for level in levels]
        needed = [(more, each.noise_for(more)) for more in rounds or (1, 10, 100)]
        rows.append(
            {
                "member": each.member, "federation": each.federation, "dataset": each.dataset, "delta": each.delta,
                "steps": each.last.steps, "sampling_rate": str(each.last.sampling_rate),
                "rounds_left": [
                    {"noise_multiplier": float(level), "rounds": count, "then": rule} for level, count, rule in left
                ],
                "noise_needed": [
                    {"rounds": more, "noise_multiplier": None if level is None else float(level)}
                    for more, level in needed
                ],
            }
        )  # fmt: skip
        lines.append(f"{each.member}, {each.dataset}, {each.federation}: rounds of {each.last.steps} steps")
        lines += [
            f"  noise {float(level):<8g} {count:>6} rounds left" + (f", then {rule} refuses" if rule else " or more")
            for level, count, rule in left
        ]
        lines += [
            f"  {more:>6} rounds " + ("do not fit" if level is None else f"need noise {float(level):g}")
            for more, level in needed
        ]
    if plot is not None:
        first = outlooks[0]
        plots.draw_forecast(first, [Fraction(str(value)) for value in noise] if noise else first.levels, plot)
    show(as_json, {"forecasts": rows, "plot": str(plot) if plot else None}, "\n".join(lines))
