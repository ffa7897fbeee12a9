"""A policy from its file: the document, its bytes, and the hash it is known by."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

from securefl import documents
from securefl.policy.document import Budget, Context, PolicyDocument, Protection, Release, Training, Valid
from securefl.terms import Hash, Scheme, Unit


@dataclass(frozen=True, slots=True)
class Policy:
    """A well-formed policy."""

    document: PolicyDocument
    text: bytes
    hash: Hash

    @property
    def federation(self) -> str:
        """Whose policy it is."""
        return self.document.federation

    @property
    def version(self) -> int:
        """Which one it is."""
        return self.document.version

    @property
    def valid(self) -> Valid:
        """When it holds."""
        return self.document.valid

    @property
    def budget(self) -> Budget:
        """What may be spent."""
        return self.document.budget

    @property
    def training(self) -> Training:
        """How members may train."""
        return self.document.training

    @property
    def protection(self) -> Protection:
        """How updates must be hidden."""
        return self.document.protection

    @property
    def release(self) -> Release:
        """What may leave."""
        return self.document.release

    @property
    def context(self) -> Context:
        """What for, and where."""
        return self.document.context


_MECHANISM = {Unit.RECORD: "poisson-gaussian", Unit.CLIENT: "distributed-discrete-gaussian"}


def load(path: Path) -> Policy:
    """The policy at ``path``.

    Raises:
        OperatorFault: with file, line and field, for everything that is wrong.
    """
    return _policy(documents.read(path))


def parse(text: bytes, name: str) -> Policy:
    """The policy in ``text``; ``name`` is what errors call it.

    Raises:
        OperatorFault: as for ``load``.
    """
    return _policy(documents.parse(text, name))


def policy_hash(text: bytes) -> Hash:
    """The name of a policy: SHA-256 of its bytes, labelled."""
    return Hash(hashlib.sha256(b"policy\0" + text).digest())


def _policy(document: documents.Document) -> Policy:
    return Policy(documents.validate(document, PolicyDocument), document.text, policy_hash(document.text))


def check(policy: Policy, now: int) -> tuple[str, ...]:
    """What in a well-formed policy can never be met, or does less than it seems to; ``now`` in seconds since 1970."""
    return (*_never(policy, datetime.fromtimestamp(now, UTC).date()), *_idle(policy))


def _never(policy: Policy, day: date) -> list[str]:
    """Why every plan is refused, if it is."""
    protection, notes = policy.protection, []
    if policy.valid.until < day:
        notes.append(f"valid.until: {policy.valid.until} is over: every plan is refused")
    if policy.valid.from_ > day:
        notes.append(f"valid.from: {policy.valid.from_} is to come: every plan is refused until then")
    unit = policy.budget.unit
    fitting = _MECHANISM[unit]
    if policy.training.mechanisms and fitting not in policy.training.mechanisms:
        notes.append(
            f"budget.unit: only {fitting}, which training.mechanisms lacks, hides a {unit.value}: every plan is refused"
        )
    empty = {
        "training.mechanisms": policy.training.mechanisms,
        "training.modules": policy.training.modules,
        "training.base_models": policy.training.base_models,
        "protection.schemes": protection.schemes,
        "context.purposes": policy.context.purposes,
        "context.regions": policy.context.regions,
    }
    notes += [f"{name}: empty, so every plan is refused" for name, values in empty.items() if not values]
    return notes


def _idle(policy: Policy) -> list[str]:
    """What another rule makes pointless, and what is not as safe as it looks."""
    budget, protection, notes = policy.budget, policy.protection, []
    if budget.per_round.epsilon > budget.epsilon:
        notes.append("budget.per_round.epsilon: above budget.epsilon, so it never decides")
    if budget.epsilon > budget.per_dataset.epsilon:
        notes.append("budget.epsilon: above budget.per_dataset.epsilon, so it never decides")
    if protection.min_cohort - protection.colluding <= 1:
        fix = f"no plan has fewer than {protection.colluding + 2}"
        notes.append(
            f"protection.min_cohort: a sum would hold fewer than two honest inputs, so it never decides: {fix}"
        )
    safe = safe_threshold(protection.min_cohort, protection.colluding)
    if Scheme.MASKING in protection.schemes and protection.threshold.at_least < safe:
        notes.append(f"protection.threshold.at_least: below {safe}, the least that is safe, so it never decides")
    if Scheme.CLEAR in protection.schemes:
        notes.append("protection.schemes: `clear` shows every update to the coordinator")
    if not policy.release.fields:
        notes.append("release.fields: empty, so a plan that releases its weights is refused")
    return notes


def safe_threshold(members: int, colluding: int) -> int:
    """The least threshold T with 2 T > members + colluding.

    Below it two groups of survivors, sharing only colluders, could each be led to open the other's half of a mask.
    """
    return (members + colluding) // 2 + 1
