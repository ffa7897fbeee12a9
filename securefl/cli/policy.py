"""`securefl policy`: what is allowed, what would be, and who signs it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from securefl.cli.options import Days, Json, KeyFile, group, show

policy_app = group("What is allowed.")


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
    show(as_json, answer, "\n".join([f"{policy}: well formed{under}, hash {loaded.hash.hex()[:16]}", *notes, *told]))


@policy_app.command("explain")
def policy_explain(
    policy: Path,
    plan: Annotated[Path, typer.Argument(help="A plan, or the file of a federation, of tasks, or of a tree.")],
    as_json: Json = False,
) -> None:
    """Every rule of the policy, held against a plan: what would be granted or refused, and why.

    Of a file with tasks every task is told; of a tree every federation, those below by their own policies.
    """
    from securefl.planning.preview import foresee  # noqa: PLC0415

    told = foresee(policy, plan)
    show(as_json, told.plain(), told.text())
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
    show(as_json, answer, "\n".join(lines) or "they allow the same")


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
    show(as_json, answer, "\n".join([*lines, *failed, f"{len(results)} cases, {len(failed)} failed"]))
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
    show(as_json, answer, "\n".join([*lines, total]))


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

    from securefl import key_files  # noqa: PLC0415
    from securefl.policy import approvals, load  # noqa: PLC0415

    policy, now = load.load(path), int(time.time())
    made = approvals.sign(key_files.load(key), approvals.Kind(kind), policy, now, now + days * approvals.DAY_S)
    standing = approvals.add(path, policy, made, now)
    answer = {
        "policy": str(path),
        "hash": policy.hash.hex(),
        "approvals": str(approvals.beside(path)),
        **standing.facts(),
    }
    show(as_json, answer, f"{approvals.beside(path)}: {standing}")


@policy_app.command("schema")
def policy_schema() -> None:
    """The JSON Schema of policies, for editors."""
    from securefl.policy.document import schema_text  # noqa: PLC0415

    print(schema_text(), end="")
