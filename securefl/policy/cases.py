"""Cases beside a policy: plans it must grant and plans it must refuse, and by which rules.

``NAME.cases.yaml`` beside ``NAME.yaml`` holds a base plan and, for each case, what differs in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from securefl import documents, wire
from securefl.documents import Rational
from securefl.errors import OperatorFault
from securefl.policy.decide import decide
from securefl.policy.load import Policy, load
from securefl.policy.plan_document import PlanDocument, plan_of
from securefl.terms import Hash, Level, Price, Refusal, micro_epsilon


class Case(BaseModel):
    """One question to the policy, and its answer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    change: dict[str, Any] = Field(default_factory=dict)
    epsilon_round: Rational = Field(0, validate_default=True, description="what the round would cost")
    epsilon_after: Rational = Field(0, validate_default=True, description="what all rounds would have cost")
    day: str | None = None
    expect: Literal["grant", "refuse"]
    rules: tuple[str, ...] = ()


class CasesDocument(BaseModel):
    """The cases of one policy."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    securefl_cases: Literal[1]
    day: str = Field(description="the day on which the policy is asked")
    plan: dict[str, Any]
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
class Fresh:
    """An account nothing was ever charged to."""

    digest: Hash = Hash(bytes(32))

    def knows(self, plan: Hash) -> bool:
        """No."""
        del plan
        return False


def policies_in(folder: Path) -> Iterator[Path]:
    """Every policy that has cases.

    Raises:
        OperatorFault: there is none, or cases stand without their policy.
    """
    found = sorted(folder.glob("*.cases.yaml"))
    if not found:
        raise OperatorFault("no *.cases.yaml here", "write cases beside a policy", str(folder))
    for cases in found:
        yield cases.with_name(cases.name.removesuffix(".cases.yaml") + ".yaml")


def run(path: Path) -> tuple[Outcome, ...]:
    """Every case beside the policy at ``path``, decided."""
    policy = load(path)
    document = documents.read(path.with_name(path.stem + ".cases.yaml"))
    written = documents.validate(document, CasesDocument)
    return tuple(_run(policy, path, written, case) for case in written.cases)


def _run(policy: Policy, path: Path, written: CasesDocument, case: Case) -> Outcome:
    from datetime import UTC, datetime  # noqa: PLC0415

    plan = plan_of(PlanDocument.model_validate({"securefl_plan": 1, **written.plan, **case.change}), policy.hash)
    day = datetime.fromisoformat(case.day or written.day).replace(tzinfo=UTC)
    after = micro_epsilon(float(case.epsilon_after))
    price = Price(
        wire.plan_hash(plan), Fresh().digest, micro_epsilon(float(case.epsilon_round)),
        {Level.DATASET: after, Level.FEDERATION: after},
    )  # fmt: skip
    answer = decide(policy, plan, Fresh(), price, int(day.timestamp()))
    rules = tuple(reason.rule for reason in answer.reasons) if isinstance(answer, Refusal) else ()
    decision = "refuse" if rules else "grant"
    if decision != case.expect:
        return Outcome(path.stem, case.name, False, f"{decision}, not {case.expect}: {', '.join(rules)}", rules)
    if case.expect == "refuse" and set(rules) != set(case.rules):
        return Outcome(path.stem, case.name, False, f"refused by {', '.join(rules)}; not {', '.join(case.rules)}", rules)
    return Outcome(path.stem, case.name, True, "", rules)
