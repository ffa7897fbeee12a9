"""What a policy answers: a grant or a refusal, with prices and reasons."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction

from securefl.shown import plain
from securefl.terms import rules
from securefl.terms.events import MicroEpsilon
from securefl.terms.names import Accountant, Hash, Level, Nonce, text_made_plain


@dataclass(frozen=True, slots=True)
class Limit:
    """What one policy lets one account hold: for one of the data sets that may hold the same record, if several may."""

    level: Level
    name: str  # of the data set, the federation, or the run
    epsilon: MicroEpsilon  # rounded down
    delta: Fraction
    bound: Accountant  # what the total is compared by
    by: str  # the federation whose policy it is


@dataclass(frozen=True, slots=True)
class Price:
    """What one plan would cost, computed for one state of one account."""

    plan: Hash
    account: Hash  # digest of the account it was computed for: for any other it is void
    round: MicroEpsilon  # this plan alone
    after: Mapping[Level, MicroEpsilon]  # each level's total with this plan in it
    above: Mapping[str, MicroEpsilon] = field(default_factory=dict)  # the same for each federation above the plan's
    caps: tuple[Limit, ...] = ()  # what holds these totals: its own policy's, and those of others with charges there


@dataclass(frozen=True, slots=True)
class Grant:
    """Leave to run one plan once, at a price already set aside. Made by ``policy.decide`` alone."""

    plan: Hash
    price: Price
    nonce: Nonce


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule that says no: what was asked, what is allowed, the smallest change that would pass."""

    rule: str
    value: str
    limit: str
    fix: str

    def __post_init__(self) -> None:
        if self.rule not in rules.KNOWN:
            raise ValueError(f"{plain(self.rule[:80])!r} is the name of no rule: see securefl/terms/rules.py")
        text_made_plain(self, "value", "limit", "fix")

    def __str__(self) -> str:
        return f"{self.rule}: {self.value}; allowed: {self.limit}; {self.fix}"


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, with every reason. A refusal without a reason cannot be made."""

    reasons: tuple[Reason, ...]

    def __post_init__(self) -> None:
        if not self.reasons:
            raise ValueError("a refusal names at least one reason")
