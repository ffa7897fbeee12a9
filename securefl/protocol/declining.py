"""What a site says of its refusals: everything to its own ledger and operator, and little outside.

A reason goes out as it is only if its rule is on the list below: such words are made of the plan and of the policy
that both sides hold. Of every other rule the name goes out, with constant words: its own words may hold what other
federations were promised and spent here, their names, and the site's own names.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from securefl.terms import Reason, rules

_OWN_ACCOUNT: Final = frozenset({  # of this federation alone, which its coordinator has proposed every plan of
    "budget.epsilon", "budget.neighbours", "budget.once", "budget.per_round.epsilon", "budget.per_run.epsilon",
})  # fmt: skip
_PLAN_AND_POLICY: Final = ("context.", "protection.", "release.", "sharing.", "training.")
_BY_NAME: Final = frozenset({"federation", "plan.dimension", "policy", "valid"})
UNREAD: Final = "training"  # the plan cannot be trained here: it was declined before a record was read
UNFINISHED: Final = "training.unfinished"  # records may have been read: it is paid for


def is_open(rule: str) -> bool:
    """Return whether the words of this rule are made of plan, policy and this federation's own account alone."""
    listed = rule in _OWN_ACCOUNT | _BY_NAME or rule.startswith(_PLAN_AND_POLICY)
    return listed and rule != UNFINISHED


def constant(rule: str, below: str = "") -> Reason:
    """A reason that says its rule, and beside it nothing but the name of one rule below, if there is one."""
    assert below in rules.DECISIONS or not below, "a name of the closed list, or none"
    return Reason(rule, below or "what was asked", "what this site allows", "ask the site: its own ledger says more")


def told(reasons: Iterable[Reason]) -> tuple[Reason, ...]:
    """The reasons as they go out: each once, so that not even how many there were of a rule is told."""
    outside = []
    for reason in reasons:
        below = reason.value if reason.rule == UNREAD and reason.value in rules.DECISIONS else ""
        said = reason if is_open(reason.rule) else constant(reason.rule, below)
        if said not in outside:
            outside.append(said)
    return tuple(outside)


def one_below(names: Iterable[str]) -> str:
    """The one rule that a node names of all by which its members declined: the first in the order of the alphabet.

    A member that trained is another matter: it never comes to this. Nothing is named that is no decision's rule.
    """
    return min((name for name in names if name in rules.DECISIONS and name != UNFINISHED), default="")
