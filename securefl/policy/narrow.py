"""A policy under another one may only tighten it. One table says, field by field, what tighter means.

``meet`` is the loosest policy that both allow; a child tightens its parent if the meet of the two is the child itself.
A field without a row in the table cannot be narrowed, so a policy that has one is refused until the row is written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date
from enum import Enum
from fractions import Fraction
from functools import lru_cache
from typing import Any

from pydantic import BaseModel, ValidationError

from securefl.documents.strict import Document
from securefl.errors import Loosens
from securefl.policy.document import PerRun, PolicyDocument
from securefl.policy.limits import ANY_MODEL, Section
from securefl.terms import Accountant


class Apart(ValueError):
    """No policy is allowed by both: the message names the field."""


@dataclass(frozen=True, slots=True)
class Row:
    """How one field narrows."""

    how: str  # what a child may write, in words; ends where the parent's value follows
    meet: Callable[[Any, Any], Any]  # (parent, child) -> the loosest value that both allow


def _same(parent: Any, child: Any) -> Any:  # noqa: ANN401 - any field's value
    if parent != child:
        raise Apart(f"{shown(child)} is not {shown(parent)}")
    return child


def _common(parent: tuple[Any, ...], child: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value for value in child if value in parent)


def _least_given(parent: PerRun | None, child: PerRun | None) -> PerRun | None:
    """Nothing given is no limit of its own."""
    if parent is None or child is None:
        return parent or child
    return min(parent, child, key=lambda limit: limit.epsilon)


def _fewest_given(parent: int | None, child: int | None) -> int | None:
    """Nothing given is no limit."""
    return min((value for value in (parent, child) if value is not None), default=None)


def _common_models(parent: tuple[str, ...], child: tuple[str, ...]) -> tuple[str, ...]:
    """``any`` is every model, so the other list is what both allow."""
    if ANY_MODEL in parent:
        return child
    return parent if ANY_MODEL in child else _common(parent, child)


AT_MOST = Row("at most", min)
AT_LEAST = Row("at least", max)
AT_MOST_IF_GIVEN = Row("at most", _least_given)
FEWEST_IF_GIVEN = Row("at most", _fewest_given)
AMONG = Row("nothing but", _common)
AMONG_MODELS = Row("nothing but", _common_models)
ONLY_IF = Row("at most", lambda parent, child: parent and child)
TOWARDS_FILTER = Row("exactly", lambda parent, child: parent if parent is Accountant.FILTER else child)
SAME = Row("exactly", _same)
OWN = Row("its own", lambda _, child: child)  # says nothing about what is allowed below

ROWS = {
    "securefl_policy": SAME,
    "federation": OWN,
    "version": OWN,
    "valid.from": Row("not before", max),
    "valid.until": Row("not after", min),
    "budget.unit": SAME,
    "budget.neighbours": SAME,
    "budget.epsilon": AT_MOST,
    "budget.delta": AT_MOST,
    "budget.per_round.epsilon": AT_MOST,
    "budget.per_dataset.epsilon": AT_MOST,
    "budget.overlap": AT_LEAST,
    "budget.per_run": AT_MOST_IF_GIVEN,
    "budget.bound": TOWARDS_FILTER,  # the filter's epsilon is the larger, and holds whatever depends on what
    "training.mechanisms": AMONG,
    "training.clip.at_most": AT_MOST,
    "training.clip.norm": SAME,
    "training.noise_multiplier.at_least": AT_LEAST,
    "training.clipping": AMONG,
    "training.losses": AMONG,
    "training.optimizers": AMONG,
    "training.learning_rate.at_least": AT_LEAST,
    "training.learning_rate.at_most": AT_MOST,
    "training.divisor.at_most": AT_MOST,
    "training.micro_batch.at_most": AT_MOST,
    "training.tokens.at_most": AT_MOST,
    "training.base.norm_at_most": AT_MOST,
    "training.adapters": AMONG,
    "training.rules": AMONG,
    "training.modules": AMONG,
    "training.rank.at_most": AT_MOST,
    "training.base_models": AMONG_MODELS,
    "sharing.home": AMONG,
    "sharing.pull": ONLY_IF,
    "sharing.attention": ONLY_IF,
    "sharing.weightings": AT_MOST,
    "sharing.probes": AMONG,
    "sharing.weight_ratio.at_most": AT_MOST,
    "protection.schemes": AMONG,
    "protection.min_cohort": AT_LEAST,
    "protection.threshold.at_least": AT_LEAST,
    "protection.colluding": AT_LEAST,
    "protection.grid.fraction_bits.at_least": AT_LEAST,
    "protection.grid.fraction_bits.at_most": AT_MOST,
    "protection.grid.value_bits.at_most": AT_MOST,
    "protection.trust": AMONG,
    "keys.max_age_days": FEWEST_IF_GIVEN,
    "release.fields": AMONG,
    "release.to": SAME,
    "context.purposes": AMONG,
    "context.regions": AMONG,
    "parent": OWN,
    "approvals.required": AT_LEAST,
    "approvals.keys": OWN,  # who may sign for a federation is that federation's affair; how many must is not
}


@dataclass(frozen=True, slots=True)
class Loosened:
    """One field in which a child allows what its parent does not."""

    field: str
    parent: str
    child: str
    how: str

    def __str__(self) -> str:
        return f"{self.field}: {self.child} is looser than {self.parent} above it; write {self.how} {self.parent}"


def fields(model: type[BaseModel] = PolicyDocument, above: str = "") -> Iterator[str]:
    """Every leaf field of a policy, dotted, as it is written."""
    for name, info in model.model_fields.items():
        dotted = above + (info.alias or name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, Section):
            yield from fields(info.annotation, f"{dotted}.")
        else:
            yield dotted


FIELDS = tuple(fields())


def value_at(policy: PolicyDocument, field: str) -> Any:  # noqa: ANN401 - any field's value
    """Return what a policy says in one field."""
    found: Any = policy
    for part in field.split("."):
        found = getattr(found, "from_" if part == "from" else part)
    return found


def meet(parent: PolicyDocument, child: PolicyDocument) -> PolicyDocument:
    """The loosest policy that both allow, under the child's name.

    Raises:
        Apart: there is none, or a field has no row.
    """
    whole: dict[str, Any] = {}
    for field in FIELDS:
        *outer, last = field.split(".")
        place = whole
        for part in outer:
            place = place.setdefault(part, {})
        place[last] = _met(field, parent, child)
    try:
        return PolicyDocument.model_validate(whole)
    except ValidationError as fault:
        first = fault.errors()[0]
        raise Apart(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from fault


def _met(field: str, parent: PolicyDocument, child: PolicyDocument) -> Any:  # noqa: ANN401
    row = ROWS.get(field)
    if row is None:
        raise Apart(f"{field}: nobody has said how this field narrows")
    try:
        return row.meet(value_at(parent, field), value_at(child, field))
    except Apart as fault:
        raise Apart(f"{field}: {fault}") from fault


def loosened(parent: PolicyDocument, child: PolicyDocument) -> tuple[Loosened, ...]:
    """Every field in which the child allows what the parent does not; total, and empty where it tightens."""
    return tuple(
        Loosened(field, shown(value_at(parent, field)), shown(value_at(child, field)), ROWS[field].how)
        if field in ROWS
        else Loosened(field, shown(value_at(parent, field)), shown(value_at(child, field)), "no such field beside")
        for field in FIELDS
        if not _tightens(field, parent, child)
    )


def _tightens(field: str, parent: PolicyDocument, child: PolicyDocument) -> bool:
    try:
        return bool(_met(field, parent, child) == value_at(child, field))
    except Apart:
        return False


def narrow(
    parent: PolicyDocument, child: PolicyDocument, written: tuple[Document, Document] | None = None
) -> PolicyDocument:
    """Return what the child's policy is under its parent's: its own, where that tightens.

    Args:
        parent: the policy above.
        child: the policy below it.
        written: the two documents, parent's first, so that a refusal names both lines.

    Raises:
        Loosens: the child loosens its parent; every field, both values and both lines.
    """
    found = loosened(parent, child)
    if found:
        raise Loosens(tuple(_told(each, written) for each in found))
    return meet(parent, child)


def _told(each: Loosened, written: tuple[Document, Document] | None) -> str:
    if written is None:
        return str(each)
    above, below = (f"{document.name}:{document.line_of(tuple(each.field.split('.')))}" for document in written)
    return f"{below}: {each} ({above})"


def origin(levels: tuple[PolicyDocument, ...], limits: tuple[str, ...]) -> PolicyDocument:
    """Of a policy and those above it, nearest first: the one that set these fields of the narrowed policy.

    That is the highest with the same values; the policy's own where there is no field, or each level has its own.
    """
    own = levels[0]
    if all(ROWS[field] is OWN for field in limits):
        return own
    for level in reversed(levels):
        if all(_set(value_at(level, field)) == _set(value_at(own, field)) for field in limits):
            return level
    return own


def _set(value: Any) -> Any:  # noqa: ANN401
    return frozenset(value) if isinstance(value, tuple) else value


def shown(value: Any) -> str:  # noqa: ANN401 - any field's value
    """A value as a person would write it."""
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, Fraction):
        return decimal(value)
    if isinstance(value, tuple):
        return f"[{', '.join(shown(each) for each in value)}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {shown(each)}" for key, each in value.items()) + "}"
    if isinstance(value, BaseModel):
        return shown({key: each for key, each in value.model_dump().items() if each is not None})
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | str | date) else repr(value)


@lru_cache(maxsize=4096)
def decimal(value: Fraction | int) -> str:
    """A decimal where it ends within 18 places, else a fraction."""
    scaled = value * 10**18
    if scaled.denominator != 1:
        return str(value)
    whole, rest = divmod(abs(scaled.numerator), 10**18)
    return f"{'-' * (value < 0)}{whole}" + f".{rest:018d}".rstrip("0").rstrip(".")
