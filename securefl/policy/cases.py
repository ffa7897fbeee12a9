"""Cases beside a policy: plans it must grant and plans it must refuse, and by which rules.

``NAME.cases.yaml`` beside ``NAME.yaml`` holds a base plan and, for each case, what differs in it. Prices are given, not
computed: a case asks what the policy says to a cost, not what a plan costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, time
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from securefl import wire
from securefl.documents import strict
from securefl.documents.strict import Document, First, Flag, Rational
from securefl.errors import OperatorFault
from securefl.policy.decide import decide, explain
from securefl.policy.document import Day
from securefl.policy.load import Policy, load
from securefl.policy.plan_document import draft
from securefl.terms import Hash, Level, MicroEpsilon, Plan, Price, Refusal

Cost = Annotated[Rational, Field(ge=0)]


class Case(BaseModel):
    """One question to the policy, and its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="what is asked, in words")
    change: dict[str, Any] = Field(default_factory=dict, description="fields of the plan that differ")
    epsilon_round: Cost = Field(Fraction(0), description="what the round would cost")
    epsilon_after: Cost = Field(Fraction(0), description="what all the federation's rounds would have cost")
    epsilon_dataset: Cost | None = Field(None, description="the same for the data set; epsilon_after if not given")
    epsilon_run: Cost | None = Field(None, description="the same for the run; epsilon_after if not given")
    epsilon_above: Cost | None = Field(
        None, description="the same for each federation above; epsilon_after if not given"
    )
    again: Flag = Field(False, description="whether the plan was reserved before")
    day: Day | None = Field(None, description="asked on another day")
    expect: Literal["grant", "refuse"]
    rules: tuple[str, ...] = Field((), description="exactly the rules that refuse")

    @model_validator(mode="after")
    def _reasoned(self) -> Case:
        if (self.expect == "refuse") != bool(self.rules):
            raise ValueError("a refusal names its rules, and a grant names none")
        return self


class CasesDocument(BaseModel):
    """The cases of one policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    securefl_cases: First
    day: Day = Field(description="the day on which the policy is asked")
    plan: dict[str, Any] = Field(description="what a case does not change")
    cases: tuple[Case, ...] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Whether a case came out as written."""

    policy: str
    name: str
    ok: bool
    why: str
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Imagined:
    """An account that knows one plan, or none."""

    known: Hash | None

    @property
    def digest(self) -> Hash:
        """Its name."""
        return wire.digest("imagined account", self.known or b"")

    def knows(self, plan: Hash) -> bool:
        """Return whether it is this one."""
        return plan == self.known


def policies_in(folder: Path) -> Iterator[Path]:
    """Every policy that has cases.

    Raises:
        OperatorFault: there is none.
    """
    found = sorted(folder.glob("*.cases.yaml"))
    if not found:
        raise OperatorFault("no *.cases.yaml here", "write cases beside a policy", str(folder))
    for cases in found:
        yield cases.with_name(cases.name.removesuffix(".cases.yaml") + ".yaml")


def run(path: Path) -> tuple[Outcome, ...]:
    """Every case beside the policy at ``path``, decided.

    Raises:
        OperatorFault: the policy, the cases or a plan in them is not well formed, with line and field.
    """
    policy = load(path)
    document = strict.read(path.with_name(path.stem + ".cases.yaml"))
    written = strict.validate(document, CasesDocument)
    return tuple(
        Outcome(path.stem, case.name, not why, why, rules)
        for index, case in enumerate(written.cases)
        for rules in [_refused_by(policy, written, case, _planned(document, index))]
        for why in [_differs(case, rules)]
    )


NO_CASE = (  # what a written plan cannot say
    "policy", "training.mechanisms", "protection.seats", "budget.unit", "budget.neighbours", "budget.price",
)  # fmt: skip


def unrefused(path: Path, outcomes: Iterable[Outcome]) -> tuple[str, ...]:
    """The rules by which no case beside the policy at ``path`` is refused.

    Raises:
        OperatorFault: as for ``run``.
    """
    refused = {rule for outcome in outcomes for rule in outcome.rules}
    return tuple(rule for rule in _rules(path) if rule not in refused)


def _rules(path: Path) -> tuple[str, ...]:
    """Every rule of the policy that a case can be refused by."""
    policy = load(path)
    document = strict.read(path.with_name(path.stem + ".cases.yaml")).under("plan")
    rules: dict[str, None] = {}
    for scheme in policy.protection.schemes:
        changed = {"securefl_plan": 1, **document.value, "protection": scheme.value}
        plan = draft(Document(document.name, document.text, changed, document.lines), policy.hash)
        account = Imagined(None)
        price = _priced(policy, plan, account, Fraction(0), dict.fromkeys(Level, Fraction(0)), Fraction(0))
        rules.update(dict.fromkeys(check.rule for check in explain(policy, plan, account, price, 0)))
    return tuple(rule for rule in rules if rule not in NO_CASE)


def _planned(document: Document, index: int) -> Document:
    """The plan of one case, each field with the line it was written on."""
    case = document.under("cases", index)
    changed = case.under("change").over(document.under("plan")) if "change" in case.value else document.under("plan")
    return Document(changed.name, changed.text, {"securefl_plan": 1, **changed.value}, changed.lines)


def _refused_by(policy: Policy, written: CasesDocument, case: Case, planned: Document) -> tuple[str, ...]:
    plan = draft(planned, policy.hash)
    name = wire.plan_hash(plan)
    account = Imagined(name if case.again else None)
    of_dataset = case.epsilon_after if case.epsilon_dataset is None else case.epsilon_dataset
    of_run = case.epsilon_after if case.epsilon_run is None else case.epsilon_run
    after = {Level.DATASET: of_dataset, Level.FEDERATION: case.epsilon_after, Level.RUN: of_run}
    of_above = case.epsilon_after if case.epsilon_above is None else case.epsilon_above
    price = _priced(policy, plan, account, case.epsilon_round, after, of_above)
    now = datetime.combine(case.day or written.day, time(), UTC)
    answer = decide(policy, plan, account, price, int(now.timestamp()))
    return tuple(reason.rule for reason in answer.reasons) if isinstance(answer, Refusal) else ()


def _priced(
    policy: Policy, plan: Plan, account: Imagined, of_round: Fraction, after: Mapping[Level, Fraction],
    of_above: Fraction,
) -> Price:  # fmt: skip
    """A price as it is imagined."""
    totals = {level: _micro(epsilon) for level, epsilon in after.items()}
    above = {each.federation: _micro(of_above) for each in policy.above}
    caps = policy.caps("imagined", plan.run)
    return Price(wire.plan_hash(plan), account.digest, _micro(of_round), totals, above, caps)


def _differs(case: Case, rules: tuple[str, ...]) -> str:
    """Return how the answer differs from what the case expects; empty if it does not."""
    decision = "refuse" if rules else "grant"
    if decision != case.expect:
        return f"{decision}, not {case.expect}" + (f": {', '.join(rules)}" if rules else "")
    if set(rules) != set(case.rules):
        return f"refused by {', '.join(rules)}; not {', '.join(case.rules)}"
    return ""


def _micro(epsilon: Fraction) -> MicroEpsilon:
    return MicroEpsilon(math.ceil(epsilon * 1_000_000))  # a cost rounds up
