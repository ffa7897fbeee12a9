"""`securefl audit`: what an auditor asks, and how it is answered."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from securefl.cli.options import Json, group, show

audit_app = group("Is it true? Offline, from the copied files alone.")
Keys = Annotated[
    list[Path] | None,
    typer.Option("--keys", help="Keys you know: JSON, names to keys or fingerprints. May be given several times."),
]


@audit_app.command("verify")
def audit_verify(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN")], keys: Keys = None, as_json: Json = False
) -> None:
    """Recompute hashes, signatures, costs, limits and the report; exit 4 names what does not hold.

    Without --keys nothing says whose keys these are: their fingerprints are printed, to be compared by other means.
    """
    from securefl.audit import pins  # noqa: PLC0415
    from securefl.audit.verify import verify  # noqa: PLC0415

    verdict = verify(run_folder, pins.read(keys) if keys else None)
    answer: dict[str, Any] = {
        "ok": verdict.ok, "entries": verdict.entries, "first_bad": verdict.first_bad, "why": verdict.why,
        "unsigned": list(verdict.unsigned), "pinned": verdict.pinned, "keys": dict(verdict.keys),
        "unverified": list(verdict.unverified),
    }  # fmt: skip
    show(as_json, answer, _told(verdict))
    if not verdict.ok:
        raise typer.Exit(4)


def _told(verdict: Any) -> str:  # noqa: ANN401 - audit.verify.Verdict
    """Return what a person reads."""
    if not verdict.ok:
        return f"NOT verified: {verdict.why}"
    unsigned = ", ".join(run[:12] for run in verdict.unsigned)
    said = f"; under an UNSIGNED policy: {unsigned}" if unsigned else ""
    lines = [f"verified: {verdict.entries} entries hold, under the keys you gave{said}"]
    if not verdict.pinned:
        head = f"consistent: {verdict.entries} entries hold together; keys NOT pinned{said}"
        lines = [head, "whoever made up all of these keys could have made up the run: compare them, or give --keys"]
        lines += [f"  {name:<24}{each}" for name, each in sorted(verdict.keys.items())]
    return "\n".join([*lines, *(f"not verified: {each}" for each in verdict.unverified)])


@audit_app.command("replay")
def audit_replay(run_folder: Annotated[Path, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Every privacy event the ledgers show, and what they cost together, by each accountant that is here."""
    from securefl.audit.replay import replay  # noqa: PLC0415
    from securefl.training import prv  # noqa: PLC0415

    answer = replay(run_folder, prv.epsilon_prv if prv.is_here() else None)
    rows = [
        f"{e['member']:<16}{e['mechanism']:<20}q={e['sampling_rate'][0]}/{e['sampling_rate'][1]:<8}"
        f"sigma={e['noise_multiplier']:<8}steps={e['steps']:<6}{e['state']}"
        for e in answer["events"]
    ]
    cost = answer["epsilon"]
    third = "" if cost.get("prv") is None else f", {cost['prv']:.6f} (Opacus' PRV, to 0.01)"
    total = f"epsilon {cost['pld']:.6f} (PLD), {cost['rdp']:.6f} (RDP){third} at delta {cost['delta']:g}"
    show(as_json, answer, "\n".join([*rows, total]))
