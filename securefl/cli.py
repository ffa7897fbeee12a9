"""The command line: one door for people and scripts. Heavy parts are imported by the command that needs them.

Exit codes: 0 done; 2 bad input or usage; 3 refused by policy or budget; 4 verification failed; 5 a peer or the
transport failed; 70 a bug of ours; 130 interrupted.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from securefl.errors import Fault, Interrupted

app = typer.Typer(
    help="Organisations fine-tune one language model on text they may not share: under policy, with receipts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
policy_app = typer.Typer(help="What is allowed.", no_args_is_help=True)
budget_app = typer.Typer(help="What was spent, and what is left.", no_args_is_help=True)
audit_app = typer.Typer(help="Is it true? Offline, from the copied files alone.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
app.add_typer(budget_app, name="budget")
app.add_typer(audit_app, name="audit")

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
NOTHING_LOST = "what was recorded stays, and the same command goes on from here"
NUMBERS = ("limit", "spent", "reserved", "left", "delta")
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]


def _print(as_json: bool, answer: dict[str, Any], text: str) -> None:  # noqa: FBT001 - the option's own name
    print(json.dumps(answer, indent=2, ensure_ascii=False, allow_nan=False) if as_json else text)


@app.command()
def run(
    federation: Annotated[Path, typer.Argument(help="The federation's file.")],
    out: Annotated[Path, typer.Option(help="Where adapter, ledgers and report go.")],
    sites: Annotated[Path | None, typer.Option(help="Where the sites' homes are; else as the file says.")] = None,
    with_local: Annotated[
        bool, typer.Option(help="Also train each member alone, for comparison on this bench.")
    ] = False,
    without_privacy: Annotated[
        bool, typer.Option(help="Also train without privacy, for comparison on this bench.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train under policy: RUN gets adapter/, ledger/, report.json and report.html."""
    from securefl import federation as f  # noqa: PLC0415
    from securefl import federation_file  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415

    loaded = federation_file.load(federation)
    arms = f.Arms(local=with_local, without_privacy=without_privacy)
    try:
        with progress() as shown:
            result = f.run(loaded, out, sites=sites, arms=arms, progress=shown)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was spent is recorded, and the same command goes on from here") from None
    answer = {
        "run": str(out),
        "report": str(out / "report.json"),
        "adapter": str(result.adapter) if result.adapter else None,
        "accuracy": result.report["accuracy"],
        "epsilon": result.report["epsilon"],
        "outcome": result.report["outcome"],
    }
    _print(as_json, answer, f.summary(result, out))
    if result.outcome != "finished":
        raise typer.Exit(3 if result.outcome == "refused" else 5)


@policy_app.command("check")
def policy_check(policy: Path, as_json: Json = False) -> None:
    """The document is well formed; what in it can never be met is named."""
    import time  # noqa: PLC0415

    from securefl.policy import load  # noqa: PLC0415

    loaded = load.load(policy)
    notes = load.check(loaded, int(time.time()))
    answer = {"ok": True, "policy": str(policy), "hash": loaded.hash.hex(), "notes": list(notes)}
    _print(as_json, answer, "\n".join([f"{policy}: well formed, hash {loaded.hash.hex()[:16]}", *notes]))


@policy_app.command("explain")
def policy_explain(
    policy: Path,
    plan: Annotated[Path, typer.Argument(help="A plan, or a federation's file.")],
    as_json: Json = False,
) -> None:
    """Every rule of the policy, held against a plan: what would be granted or refused, and why."""
    from securefl import federation as f  # noqa: PLC0415

    explained = f.explain(policy, plan)
    answer = {
        "decision": explained.decision,
        "reasons": [{"rule": r.rule, "value": r.value, "limit": r.limit, "fix": r.fix} for r in explained.reasons],
    }
    lines = [
        f"{'held  ' if check.held else 'FAILED'}  {check.rule}: {check.value} (allowed: {check.limit})"
        for check in explained.checks
    ]
    lines += [f"  to be allowed: {reason.fix}  [{reason.rule}]" for reason in explained.reasons]
    _print(as_json, answer, "\n".join([*lines, f"decision: {explained.decision}"]))
    if explained.decision == "refuse":
        raise typer.Exit(3)


@policy_app.command("test")
def policy_test(
    folder: Annotated[Path, typer.Argument(help="A folder of policies with cases beside them.")],
    as_json: Json = False,
) -> None:
    """Every case beside a policy is decided as it says."""
    from securefl.policy import cases  # noqa: PLC0415

    results = [result for policy in cases.policies_in(folder) for result in cases.run(policy)]
    failed = [result for result in results if not result.ok]
    answer = {"ok": not failed, "cases": len(results), "failed": [f"{r.policy}: {r.name}: {r.why}" for r in failed]}
    _print(as_json, answer, "\n".join([*answer["failed"], f"{len(results)} cases, {len(failed)} failed"]))  # type: ignore[misc]
    if failed or not results:
        raise typer.Exit(4)


@policy_app.command("schema")
def policy_schema() -> None:
    """The JSON Schema of policies, for editors."""
    from securefl.policy.document import PolicyDocument  # noqa: PLC0415

    print(json.dumps(PolicyDocument.model_json_schema(), indent=2))


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
    _print(as_json, {"accounts": accounts}, "\n".join([head, *rows]))


@audit_app.command("verify")
def audit_verify(run_folder: Annotated[Path, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Recompute hashes, signatures, costs and limits; exit 4 names the first entry that does not hold."""
    from securefl.audit.verify import verify  # noqa: PLC0415

    verdict = verify(run_folder)
    answer = {"ok": verdict.ok, "entries": verdict.entries, "first_bad": verdict.first_bad, "why": verdict.why}
    text = f"verified: {verdict.entries} entries hold" if verdict.ok else f"NOT verified: {verdict.why}"
    _print(as_json, answer, text)
    if not verdict.ok:
        raise typer.Exit(4)


@audit_app.command("replay")
def audit_replay(run_folder: Annotated[Path, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Every privacy event the ledgers show, and what they cost together, by two accountants."""
    from securefl.audit.replay import replay  # noqa: PLC0415

    answer = replay(run_folder)
    rows = [
        f"{e['member']:<16}{e['mechanism']:<20}q={e['sampling_rate'][0]}/{e['sampling_rate'][1]:<8}"
        f"sigma={e['noise_multiplier']:<8}steps={e['steps']:<6}{e['state']}"
        for e in answer["events"]
    ]
    cost = answer["epsilon"]
    total = f"epsilon {cost['pld']:.6f} (PLD), {cost['rdp']:.6f} (RDP) at delta {cost['delta']:g}"
    _print(as_json, answer, "\n".join([*rows, total]))


@app.command()
def compare(
    experiment: Annotated[Path, typer.Argument(help="The experiment's file.")],
    out: Annotated[Path, typer.Option(help="Where runs, table, pictures and results.json go.")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; else one for each core.")] = None,
    as_json: Json = False,
) -> None:
    """What privacy costs in utility: arms x epsilons x seeds, each run on a budget of its own; resumable."""
    from securefl.compare import experiment as e  # noqa: PLC0415
    from securefl.compare import sweep  # noqa: PLC0415
    from securefl.progress import tally  # noqa: PLC0415

    loaded = e.load(experiment)
    try:
        with tally() as shown:
            results, text, code = sweep.compare(loaded, out, jobs or len(os.sched_getaffinity(0)), shown)
    except KeyboardInterrupt:
        raise Interrupted(
            "interrupted; the runs that are over are kept, and the same command goes on from here"
        ) from None
    answer = {"out": str(out), "picture": str(out / "accuracy.png"), **results.model_dump(mode="json")}
    _print(
        as_json, answer, f"{text}\n\npictures  {out / 'accuracy.png'}, accuracy.svg\nresults   {out / 'results.json'}"
    )
    if code:
        raise typer.Exit(code)


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has, and what would help."""
    from securefl import doctor as d  # noqa: PLC0415

    findings = d.examine()
    rows = [{"name": f.name, "status": f.status, "detail": f.detail, "remedy": f.remedy} for f in findings]
    text = "\n".join(
        f"{f.status:<8}{f.name:<18}{f.detail}" + (f"  ->  {f.remedy}" if f.remedy and f.status != "ok" else "")
        for f in findings
    )
    _print(as_json, {"findings": rows}, text)


def main(argv: list[str] | None = None) -> None:
    """Run one command; every fault becomes its message and its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    for name, value in (("HF_HUB_OFFLINE", "1"), ("OMP_WAIT_POLICY", "passive"), ("TOKENIZERS_PARALLELISM", "false")):
        os.environ.setdefault(name, value)  # nothing is fetched at run time; waiting threads leave the cores to others
    try:
        app(args=arguments, standalone_mode=True)
    except Fault as fault:
        code, text = fault.exit_code, str(fault)
    except Exception as bug:  # the one place: anything else is our own fault
        if isinstance(bug, OSError) and bug.errno in STORAGE:
            place = f"{bug.filename}: " if bug.filename else ""
            code, text = 2, f"{place}{bug.strerror}; free some space or choose a folder you may write; {NOTHING_LOST}"
        else:
            import traceback  # noqa: PLC0415

            traceback.print_exc(file=sys.stderr)
            code, text = 70, f"a bug in securefl: {type(bug).__name__}: {bug}"
    else:
        return
    print(text, file=sys.stderr)
    if "--json" in arguments:
        print(json.dumps({"error": {"exit": code, "message": text}}, ensure_ascii=False))
    raise SystemExit(code)
