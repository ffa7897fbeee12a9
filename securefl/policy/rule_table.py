"""Every rule of a decision, in the order in which they are told."""

from __future__ import annotations

from securefl.policy.base_rule import BASE
from securefl.policy.budget_rules import BUDGET
from securefl.policy.context_rules import CONTEXT, RELEASE
from securefl.policy.protection_rules import PROTECTION
from securefl.policy.rule import Rule
from securefl.policy.sharing_rules import SHARING
from securefl.policy.training_rules import TRAINING

RULES: tuple[Rule, ...] = (*CONTEXT, *TRAINING, *BASE, *SHARING, *PROTECTION, *RELEASE, *BUDGET)
_INPUTS = {rule.name: rule.inputs for rule in RULES}


def inputs_of(name: str) -> tuple[str, ...]:
    """Return what the rule of this name reads besides the policy; nothing, where no rule has it."""
    return _INPUTS.get(name, ())
