"""The command line: one door for people and scripts. Heavy parts are imported by the command that needs them.

Exit codes: 0 done; 2 bad input or usage; 3 refused by policy or budget; 4 verification failed; 5 a peer or the
transport failed; 70 a bug of ours; 130 interrupted.
"""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from securefl.audit import commands
from securefl.errors import Fault, Interrupted
from securefl.shown import in_json, on_screen

app = typer.Typer(
    help="Organisations fine-tune one language model on text they may not share: under policy, with receipts.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
policy_app = typer.Typer(help="What is allowed.", no_args_is_help=True)
budget_app = typer.Typer(help="What was spent, and what is left.", no_args_is_help=True)
keys_app = typer.Typer(help="Who signs.", no_args_is_help=True)
custodian_app = typer.Typer(help="Who holds the decryption key.", no_args_is_help=True)
app.add_typer(policy_app, name="policy")
app.add_typer(budget_app, name="budget")
app.add_typer(keys_app, name="keys")
app.add_typer(custodian_app, name="custodian")
app.add_typer(commands.audit_app, name="audit")

STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)
NOTHING_LOST = "what was recorded stays, and the same command goes on from here"
NUMBERS = ("limit", "spent", "reserved", "left", "delta")
Unsigned = Annotated[
    bool, typer.Option("--unsafe-unsigned", help="Use a policy without its signatures; ledgers and report say so.")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
KeyFile = Annotated[Path, typer.Option("--key", help="The signer's key, made by `securefl keys init`.")]
Days = Annotated[int, typer.Option(help="For how long the signature counts.", min=1, max=3650)]


def _print(as_json: bool, answer: dict[str, Any], text: str) -> None:  # noqa: FBT001 - the option's own name
    print(in_json(answer) if as_json else on_screen(text))


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
    policy: Annotated[Path | None, typer.Option(help="A policy instead of the one the file names.")] = None,
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """Train under policy: RUN gets adapter/, ledger/, report.json and report.html."""
    from securefl import federation as f  # noqa: PLC0415
    from securefl import federation_file  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415

    if _is_suite(federation):
        _run_suite(federation, out, sites, policy, (with_local, without_privacy), unsafe_unsigned, as_json)
        return
    loaded = federation_file.load(federation)
    if policy is not None:
        file = loaded.file.model_copy(update={"policy": str(policy.resolve())})
        loaded = loaded.model_copy(update={"file": file})
    arms = f.Arms(local=with_local, without_privacy=without_privacy)
    try:
        with progress() as shown:
            result = f.run(loaded, out, sites=sites, arms=arms, progress=shown, unsafe_unsigned=unsafe_unsigned)
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


def _is_suite(path: Path) -> bool:
    from securefl import documents, suite_file  # noqa: PLC0415

    return suite_file.is_suite(documents.read(path))


def _run_suite(
    path: Path, out: Path, sites: Path | None, policy: Path | None, arms: tuple[bool, bool],
    unsafe_unsigned: bool, as_json: bool,  # noqa: FBT001 - options, by their own names
) -> None:  # fmt: skip
    from securefl import federation as f  # noqa: PLC0415
    from securefl import suite as s  # noqa: PLC0415
    from securefl import suite_file  # noqa: PLC0415
    from securefl.progress import progress  # noqa: PLC0415

    suite = suite_file.load(path)
    suite = suite if policy is None else suite.under(policy)
    local, without_privacy = arms
    try:
        with progress() as shown:
            result = s.run(
                suite, out, sites=sites, arms=f.Arms(local=local, without_privacy=without_privacy), progress=shown,
                unsafe_unsigned=unsafe_unsigned,
            )  # fmt: skip
    except KeyboardInterrupt:
        raise Interrupted("interrupted; what was spent is recorded, and the same command goes on from here") from None
    answer = {"run": str(out), "outcome": {"status": result.outcome, "why": result.why}, **result.report}
    _print(as_json, answer, s.table(result, out))
    if result.outcome != "finished":
        raise typer.Exit(3 if result.outcome == "refused" else 5)


@app.command()
def predict(
    store: Annotated[Path, typer.Argument(help="The folder `modules` of a run with tasks.")],
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="Texts: CSV, TSV or JSON Lines.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Which task; may be given several times; else all.")] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    column: Annotated[str, typer.Option(help="The file's column with the text.")] = "text",
    model: Annotated[str | None, typer.Option(help="Where the base model is; else as the modules name it.")] = None,
    as_json: Json = False,
) -> None:
    """What the modules of a store say of texts: every task from one base model that is loaded once."""
    from securefl.errors import OperatorFault  # noqa: PLC0415
    from securefl.training import data, module_store  # noqa: PLC0415

    texts = [*(text or ()), *(data.texts(file, column) if file else ())]
    if not texts:
        raise OperatorFault("no text", "give --text, or a file", "predict")
    modules = module_store.Modules.open(store, model)
    answers = {name: modules.answer(name, texts) for name in task or modules.manifests}
    rows = [
        {"row": row, "task": name, "label": each.label, "probabilities": dict(each.probabilities)}
        for row in range(len(texts))
        for name, each in ((name, told[row]) for name, told in answers.items())
    ]
    lines = [f"{r['row']:<8}{r['task']:<20}{r['label']}" for r in rows]
    _print(as_json, {"store": str(store), "answers": rows}, "\n".join(lines))


@policy_app.command("check")
def policy_check(
    policy: Path,
    records: Annotated[int | None, typer.Option(help="How many records the smallest data set holds.", min=1)] = None,
    before: Annotated[Path | None, typer.Option(help="The version that this one follows.")] = None,
    as_json: Json = False,
) -> None:
    """The document is well formed; what in it can never be met is named."""
    import time  # noqa: PLC0415

    from securefl.policy import approvals, load  # noqa: PLC0415

    loaded, now = load.load(policy), int(time.time())
    old = load.load(before) if before else None
    notes = load.check(loaded, now, records, old)
    signatures = approvals.read(approvals.beside(policy))
    standing = approvals.judge(loaded, signatures, now)
    told = [str(standing), *map(str, standing.refused)]
    if old is not None and old.document.approvals.keys:
        by_old = approvals.judge(loaded, signatures, now, old.document.approvals)
        told.append(f"as a successor of version {old.version}: {by_old}")
    levels = [level.federation for level in loaded.above]
    answer = {
        "ok": True, "policy": str(policy), "hash": loaded.hash.hex(), "above": levels, "notes": list(notes),
        "approvals": standing.facts(),
    }  # fmt: skip
    under = f", under {' under '.join(levels)}" if levels else ""
    _print(as_json, answer, "\n".join([f"{policy}: well formed{under}, hash {loaded.hash.hex()[:16]}", *notes, *told]))


@policy_app.command("explain")
def policy_explain(
    policy: Path,
    plan: Annotated[Path, typer.Argument(help="A plan, or the file of a federation, of tasks, or of a tree.")],
    as_json: Json = False,
) -> None:
    """Every rule of the policy, held against a plan: what would be granted or refused, and why.

    Of a file with tasks every task is told; of a tree every federation, those below by their own policies.
    """
    from securefl.foresight import foresee  # noqa: PLC0415

    told = foresee(policy, plan)
    _print(as_json, told.plain(), told.text())
    if told.decision == "refuse":
        raise typer.Exit(3)


@policy_app.command("diff")
def policy_diff(before: Path, after: Path, as_json: Json = False) -> None:
    """What another policy allows that this one forbids, and the other way round."""
    from securefl.policy import load  # noqa: PLC0415
    from securefl.policy.difference import difference  # noqa: PLC0415

    changes = difference(load.load(before).document, load.load(after).document)
    answer = {
        "changes": [
            {"field": c.field, "before": c.before, "after": c.after, "effect": c.effect, "words": c.words}
            for c in changes
        ],
        "allows": [c.field for c in changes if c.effect in ("allows", "both")],
        "forbids": [c.field for c in changes if c.effect in ("forbids", "both")],
    }
    mark = {"allows": "+", "forbids": "-", "both": "!", "neither": " "}
    lines = [f"{mark[c.effect]} {c.field}: {c.words}" for c in changes]
    _print(as_json, answer, "\n".join(lines) or "they allow the same")


@policy_app.command("test")
def policy_test(
    folder: Annotated[Path, typer.Argument(help="A folder of policies with cases beside them.")],
    every_rule: Annotated[bool, typer.Option(help="Fail also if some rule refuses no case.")] = False,
    as_json: Json = False,
) -> None:
    """Every case beside a policy is decided as it says; rules that refuse no case are named."""
    from securefl.policy import cases  # noqa: PLC0415

    found = {policy: cases.run(policy) for policy in cases.policies_in(folder)}
    unrefused = {policy.stem: list(cases.unrefused(policy, outcomes)) for policy, outcomes in found.items()}
    results = [result for outcomes in found.values() for result in outcomes]
    failed = [f"{r.policy}: {r.name}: {r.why}" for r in results if not r.ok]
    answer = {"ok": not failed, "cases": len(results), "failed": failed, "unrefused": unrefused}
    lines = [f"{name}: no case is refused by {', '.join(rules)}" for name, rules in unrefused.items() if rules]
    _print(as_json, answer, "\n".join([*lines, *failed, f"{len(results)} cases, {len(failed)} failed"]))
    if failed or not results or (every_rule and any(unrefused.values())):
        raise typer.Exit(4)


@policy_app.command("simulate")
def policy_simulate(
    policy: Path,
    ledger: Annotated[Path, typer.Argument(help="A run, its ledger folder, or one .ledger file.")],
    as_json: Json = False,
) -> None:
    """What this policy would have said to every plan that was reserved in the past."""
    from securefl.audit.simulate import SET_ASIDE, simulate  # noqa: PLC0415
    from securefl.policy import load  # noqa: PLC0415

    answers = simulate(load.load(policy), ledger)
    refused = [each for each in answers if each.reasons]
    rows = [
        {
            "member": each.member, "run": each.run, "round": each.round, "at": each.at, "epsilon": each.epsilon,
            "decision": "refuse" if each.reasons else "grant",
            "reasons": [{"rule": r.rule, "value": r.value, "limit": r.limit, "fix": r.fix} for r in each.reasons],
        }
        for each in answers
    ]  # fmt: skip
    answer = {"plans": len(answers), "refused": len(refused), "set_aside": list(SET_ASIDE), "answers": rows}
    lines = [f"{each.member}, run {each.run[:8]}, round {each.round}: {r}" for each in refused for r in each.reasons]
    total = f"{len(refused)} of {len(answers)} plans would have been refused (not asked: {', '.join(SET_ASIDE)})"
    _print(as_json, answer, "\n".join([*lines, total]))


@policy_app.command("sign")
def policy_sign(policy: Path, key: KeyFile, days: Days = 365, as_json: Json = False) -> None:
    """Sign a version of a policy as its author."""
    _sign("author", policy, key, days, as_json=as_json)


@policy_app.command("approve")
def policy_approve(policy: Path, key: KeyFile, days: Days = 365, as_json: Json = False) -> None:
    """Approve a version of a policy that somebody else wrote."""
    _sign("approval", policy, key, days, as_json=as_json)


@policy_app.command("revoke")
def policy_revoke(policy: Path, key: KeyFile, as_json: Json = False) -> None:
    """Take back what was signed for a version of a policy; runs that are over keep it."""
    _sign("revocation", policy, key, 0, as_json=as_json)


def _sign(kind: str, path: Path, key: Path, days: int, *, as_json: bool) -> None:
    import time  # noqa: PLC0415

    from securefl import keys  # noqa: PLC0415
    from securefl.policy import approvals, load  # noqa: PLC0415

    policy, now = load.load(path), int(time.time())
    made = approvals.sign(keys.load(key), approvals.Kind(kind), policy, now, now + days * approvals.DAY_S)
    standing = approvals.add(path, policy, made, now)
    answer = {
        "policy": str(path),
        "hash": policy.hash.hex(),
        "approvals": str(approvals.beside(path)),
        **standing.facts(),
    }
    _print(as_json, answer, f"{approvals.beside(path)}: {standing}")


@keys_app.command("init")
def keys_init(path: Path, as_json: Json = False) -> None:
    """Make a key, readable by its owner alone; its public half is what a policy names."""
    from securefl import keys  # noqa: PLC0415
    from securefl.errors import OperatorFault  # noqa: PLC0415

    if path.exists():
        raise OperatorFault("there is a file already", "choose another place, or use `keys show`", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    public = keys.load_or_create(path).public.hex()
    _print(as_json, {"key": str(path), "public": public}, public)


@keys_app.command("show")
def keys_show(path: Path, as_json: Json = False) -> None:
    """The public half of a key."""
    from securefl import keys  # noqa: PLC0415

    public = keys.load(path).public.hex()
    _print(as_json, {"key": str(path), "public": public}, public)


@custodian_app.command("split")
def custodian_split(
    federation: Path,
    threshold: Annotated[int, typer.Option(help="How many members' shares give the key.")],
    sites: Annotated[Path | None, typer.Option(help="Where the sites' homes are; else as the file says.")] = None,
    inside: Annotated[
        str, typer.Option(help="In a tree: the way to the federation below whose key it is, such as west/coast.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Split the decryption key among the members' homes; from now on it is whole in the custodian's memory alone."""
    from securefl import federation as f  # noqa: PLC0415

    if _is_suite(federation):
        from securefl import suite, suite_file  # noqa: PLC0415
        from securefl.errors import OperatorFault  # noqa: PLC0415

        if inside:
            raise OperatorFault("tasks have no federation below", "leave --inside out", str(federation))
        suite.split_key(suite_file.load(federation), sites, threshold)
    else:
        f.split_key(federation, sites, threshold, inside)
    _print(as_json, {"threshold": threshold}, f"split; {threshold} members' shares give the key when a run begins")


@policy_app.command("schema")
def policy_schema() -> None:
    """The JSON Schema of policies, for editors."""
    from securefl.policy.document import schema_text  # noqa: PLC0415

    print(schema_text(), end="")


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
    _print(as_json, {"forecasts": rows, "plot": str(plot) if plot else None}, "\n".join(lines))


@app.command()
def compare(
    experiment: Annotated[Path, typer.Argument(help="The experiment's file.")],
    out: Annotated[Path, typer.Option(help="Where runs, table, pictures and results.json go.")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; else one for each core.")] = None,
    unsafe_unsigned: Unsigned = False,
    as_json: Json = False,
) -> None:
    """What privacy costs in utility: arms x epsilons x seeds, each run on a budget of its own; resumable."""
    from securefl.compare import experiment as e  # noqa: PLC0415
    from securefl.compare import sweep  # noqa: PLC0415
    from securefl.progress import tally  # noqa: PLC0415

    loaded = e.load(experiment)
    try:
        with tally() as shown:
            results, text, code = sweep.compare(
                loaded, out, jobs or len(os.sched_getaffinity(0)), shown, unsafe_unsigned=unsafe_unsigned
            )
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
def explain(run_folder: Annotated[Path, typer.Argument(metavar="RUN")], as_json: Json = False) -> None:
    """Which protections were on, measured from the run; exit 4 if one that was asked for did not hold.

    Of a run with tasks every task is told; of a tree every federation.
    """
    from securefl.audit import parts  # noqa: PLC0415

    answer, text, breached = parts.explain(run_folder)
    _print(as_json, answer, text)
    if breached:
        raise typer.Exit(4)


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


ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",  # nothing is fetched at run time
    "OMP_WAIT_POLICY": "passive",  # waiting threads leave the cores to others
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # without it CUDA's products do not repeat themselves bit for bit
}


def main(argv: list[str] | None = None) -> None:
    """Run one command; every fault becomes its message and its exit code."""
    arguments = sys.argv[1:] if argv is None else argv
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
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

            print(on_screen(traceback.format_exc()), file=sys.stderr)
            code, text = 70, f"a bug in securefl: {type(bug).__name__}: {bug}"
    else:
        return
    print(on_screen(text), file=sys.stderr)
    if "--json" in arguments:
        print(in_json({"error": {"exit": code, "message": text}}, None))
    raise SystemExit(code)
