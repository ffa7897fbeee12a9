"""What policies say to all that a file stands for: a plan, a federation, each task of a suite, each level of a tree.

Nothing is trained or charged: first rounds are held against the rules, on accounts with nothing on them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from securefl.documents import federation_file, strict, suite_file
from securefl.documents.federation import Loaded
from securefl.planning import explain
from securefl.planning.explain import Explained
from securefl.planning.plan import cover_of
from securefl.planning.subfederation import Inside, plan_below
from securefl.policy import load as policies
from securefl.policy import tree as t
from securefl.policy.load import Policy
from securefl.policy.rule_table import inputs_of
from securefl.terms import MemberId, Participant, Plan, PublicKey
from securefl.terms.parties import COORDINATOR


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What is told of a file: of the one plan in it, or of each part by its name."""

    kind: str  # "plan", "tasks" or "levels"
    parts: Mapping[str, Explained]  # a level's name is the way to it from the root, such as carriers/legacy
    policies: Mapping[str, str]  # of each level: its policy's hash

    @property
    def decision(self) -> str:
        """Grant, if every part is granted."""
        return "refuse" if any(each.decision == "refuse" for each in self.parts.values()) else "grant"

    def plain(self) -> dict[str, Any]:
        """The same, for JSON: of one plan itself, or each part's by its name."""
        told = {name: plain(each) for name, each in self.parts.items()}
        if self.kind == "plan":
            return next(iter(told.values()))
        named = {name: ({"policy": self.policies[name]} if self.policies else {}) | each for name, each in told.items()}
        return {"decision": self.decision, self.kind: named}

    def text(self) -> str:
        """Return what a person reads."""
        found = []
        for name, each in self.parts.items():
            head = {"plan": [], "tasks": [f"task {name}"], "levels": [f"federation {name}"]}[self.kind]
            rows = t.lines(t.tree(each.checks), each.missing)
            lines = [*head, *rows, f"not given, so assumed: {', '.join(each.missing)}", f"decision: {each.decision}"]
            found.append("\n".join(lines))
        together = [] if self.kind == "plan" else [f"all {self.kind}: {self.decision}"]
        return "\n\n".join([*found, *together])


def plain(explained: Explained) -> dict[str, Any]:
    """One plan's decision, for JSON."""
    return {
        "decision": explained.decision,
        "reasons": [{"rule": r.rule, "value": r.value, "limit": r.limit, "fix": r.fix} for r in explained.reasons],
        "tree": [
            {
                "part": branch.part,
                "held": branch.held,
                "rules": [
                    {
                        "rule": c.rule, "held": c.held, "value": c.value, "limit": c.limit,
                        "inputs": list(inputs_of(c.rule)),
                    }
                    for c in branch.checks
                ],
            }
            for branch in t.tree(explained.checks)
        ],
        "missing": list(explained.missing),
    }  # fmt: skip


def foresee(policy: Path, file: Path) -> Foreseen:
    """Every rule of a policy against a plan, a federation's file, or each task of it; of a tree against its root.

    Federations below the root are held against their own policies, which have to stand under the root's.

    Raises:
        OperatorFault: something given is not as it must be.
        Loosens: the policy of a federation below allows what the one above it forbids.
    """
    document = strict.read(file)
    if suite_file.is_suite(document):
        suite, its = suite_file.load(file), policies.load(policy)
        tasks = {name: _task(each, its, hidden=suite.hidden) for name, each in suite.tasks.items()}
        return Foreseen("tasks", tasks, {})
    if not document.has("securefl_federation"):
        return Foreseen("plan", {"": explain.explain(policy, file)}, {})
    loaded, its = federation_file.load(file), policies.load(policy)
    if not loaded.below:
        return Foreseen("plan", {"": explain.explain_first(its, loaded)}, {})
    first = explain.unseen(loaded, its)
    levels = list(_levels(loaded, its, first.plan, loaded.file.name))
    told = {name: explain.explain_unseen(policy, replace(first, plan=plan)) for name, policy, plan in levels}
    return Foreseen("levels", told, {name: policy.hash.hex() for name, policy, _ in levels})


def _task(task: suite_file.OwnedTask, policy: Policy, *, hidden: bool) -> Explained:
    """What is said of a task. Where owners are hidden, a rule that its owners alone would not meet is not met."""
    everybody = explain.explain_first(policy, task.loaded)
    if not hidden:
        return everybody
    alone = explain.explain_first(policy, task.owned())
    failing = {each.rule: each for each in alone.checks if not each.held}
    checks = tuple(failing.get(each.rule, each) if each.held else each for each in everybody.checks)
    reasons = tuple(dict.fromkeys((*everybody.reasons, *alone.reasons)))
    return Explained("refuse" if reasons else "grant", checks, reasons, everybody.missing)


def _levels(loaded: Loaded, policy: Policy, plan: Plan, way: str) -> Iterator[tuple[str, Policy, Plan]]:
    """A federation and all below it, each with its policy and the first plan it would be asked about."""
    yield way, policy, plan
    for member in loaded.file.members:
        child = loaded.below.get(member.name)
        if child is None:
            continue
        path = child.folder / child.file.policy
        its = policies.load(path)
        sharing = child.file.strategy.sharing(child.file.task.labels)
        nobody = Participant(COORDINATOR, PublicKey(bytes(32)), "")
        inside = Inside(
            policy,
            its,
            b"",
            cover_of(child, its, None),
            sharing,
            member.rounds,
            nobody,
            None,
            (),
            None if child.file.patience is None else child.file.patience.patience(),
            f"{loaded.path}: members.{member.name}: {path}",
        )
        first = plan_below(plan, MemberId(member.name), inside, b"", 1)
        yield from _levels(child, its, explain.seated(first, child), f"{way}/{member.name}")
