"""What another policy would allow that this one forbids, and the other way round: field by field, in words."""

from __future__ import annotations

from dataclasses import dataclass

from securefl.policy.document import PolicyDocument
from securefl.policy.limits import ANY_MODEL
from securefl.policy.narrow import FIELDS, OWN, ROWS, loosened, shown, value_at


@dataclass(frozen=True, slots=True)
class Change:
    """One field that says something else."""

    field: str
    before: str
    after: str
    effect: str  # "allows" more, "forbids" more, "both", or "neither": the field is no limit
    words: str


def difference(before: PolicyDocument, after: PolicyDocument) -> tuple[Change, ...]:
    """Every field that differs, and what becomes allowed or forbidden by it."""
    looser = {each.field for each in loosened(before, after)}
    tighter = {each.field for each in loosened(after, before)}
    return tuple(
        _change(field, before, after, _effect(field, looser, tighter))
        for field in FIELDS
        if value_at(before, field) != value_at(after, field)
    )


def _effect(field: str, looser: set[str], tighter: set[str]) -> str:
    if ROWS.get(field) is OWN:
        return "neither"
    if field in looser and field in tighter:
        return "both"
    return "allows" if field in looser else "forbids" if field in tighter else "neither"


def _change(field: str, before: PolicyDocument, after: PolicyDocument, effect: str) -> Change:
    old, new = value_at(before, field), value_at(after, field)
    if isinstance(old, tuple) and isinstance(new, tuple):
        words = _of_lists(tuple(map(shown, old)), tuple(map(shown, new)))
    else:
        how = ROWS[field].how if field in ROWS else ""
        words = {
            "allows": f"{how} {shown(new)} instead of {how} {shown(old)}: more is allowed",
            "forbids": f"{how} {shown(new)} instead of {how} {shown(old)}: less is allowed",
            "both": f"{shown(new)} instead of {shown(old)}: what was allowed is forbidden, and the other way round",
            "neither": f"{shown(new)} instead of {shown(old)}",
        }[effect]
    return Change(field, shown(old), shown(new), effect, words)


def _of_lists(old: tuple[str, ...], new: tuple[str, ...]) -> str:
    if ANY_MODEL in new and ANY_MODEL not in old:
        return "everything becomes allowed"
    if ANY_MODEL in old and ANY_MODEL not in new:
        return f"everything but {', '.join(new) or 'nothing'} becomes forbidden"
    added, gone = [each for each in new if each not in old], [each for each in old if each not in new]
    parts = [f"{', '.join(added)} becomes allowed"] if added else []
    parts += [f"{', '.join(gone)} becomes forbidden"] if gone else []
    return "; ".join(parts) or "the same in another order"
