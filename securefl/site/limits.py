"""The site's own limits: the most that its SITE document lets a plan ask, held before anything is reserved.

A policy says what a federation may do; these say what this machine and its owner will do. They can only say no.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from securefl.documents.site_parts import LimitsPart
from securefl.documents.strategy import WITHOUT_LABELS, named
from securefl.policy.checks import Check, among, between
from securefl.terms import Plan, Reason, Refusal

_ENTRY = 4  # bytes of a float32
_COPIES = (
    24  # of an update, in float32: gradient, start, state; two moments, sum, noise, key stream, grid, sealed vector
)
# and ciphertext take eight bytes an entry or more each


@dataclass(frozen=True, slots=True)
class Limits:
    """What one site lets plans of one federation ask."""

    part: LimitsPart
    reads: int  # tokens of a record, as agreed: records are recognised by what is read of them
    unlabelled: bool = False  # whether this site's rows may have no label: then a loss must not need one

    @property
    def round_s(self) -> int | None:
        """Seconds that one round may take here, by this site's own clock; None: as long as it takes."""
        return None if self.part.patience is None else self.part.patience.at_most

    def refusal(self, plan: Plan) -> Refusal | None:
        """Every limit that the plan does not keep; None if it keeps them all."""
        broken = [each for each in self._checks(plan) if not each.held]
        return Refusal(tuple(Reason(c.rule, c.value, c.limit, c.fix) for c in broken)) if broken else None

    def _checks(self, plan: Plan) -> Iterator[Check]:
        part, learning, at_once = self.part, plan.learning, tokens_at_once(plan)
        yield between("site.tokens", "max_tokens", learning.max_tokens, self.reads, self.reads)
        if part.tokens is not None:
            yield between("site.tokens", "micro_tokens", at_once, 1, part.tokens.at_most)
        if self.unlabelled:
            yield among("site.labels", "the loss", (named(learning.loss),), WITHOUT_LABELS)
        if part.losses is not None:
            yield among("site.losses", "the loss", (named(learning.loss),), tuple(part.losses))
        if part.sharing is not None:
            yield among("site.sharing", "what is shared by", sharing_of(plan), tuple(part.sharing))
        if part.learning_rate is not None:
            least = Fraction(0) if part.learning_rate.at_least is None else part.learning_rate.at_least
            most = (
                max(learning.learning_rate, least) if part.learning_rate.at_most is None else part.learning_rate.at_most
            )
            yield between("site.learning_rate", "learning_rate", learning.learning_rate, least, most)
        if part.micro_batch is not None:
            yield between("site.micro_batch", "micro_batch", learning.micro_batch, 1, part.micro_batch.at_most)
        if part.patience is not None:
            yield _patience(plan, part.patience.at_most)
        if part.memory is not None:
            yield _memory(plan, part.memory.at_most)


def tokens_at_once(plan: Plan) -> int:
    """The most tokens, padding included, that are in memory at once under this plan."""
    together = plan.learning.micro_batch * plan.learning.max_tokens
    return together if plan.learning.micro_tokens is None else min(together, plan.learning.micro_tokens)


def sharing_of(plan: Plan) -> tuple[str, ...]:
    """Return what the plan asks beside one plain sum, by the names that a SITE document has for it."""
    sharing = plan.sharing
    asked = {
        "weights": bool(sharing.weightings),
        "home": bool(sharing.home),
        "pull": sharing.pull is not None,
        "attention": sharing.attention is not None,
    }
    return tuple(name for name, is_asked in asked.items() if is_asked)


def bytes_beside_the_model(plan: Plan) -> int:
    """Bytes that the plan's update takes: a gradient of each record in memory at once, and copies of the whole.

    An upper bound for what is proportional to the update. What the model itself computes with is bounded by tokens.
    """
    return _ENTRY * plan.dimension * (plan.learning.micro_batch + _COPIES)


def _patience(plan: Plan, most: int) -> Check:
    asked = plan.patience.round_s
    fix = f"wait {asked - most} s less in a round"
    return Check("site.patience", asked <= most, f"{asked} s", f"at most {most} s", fix)


def _memory(plan: Plan, most: int) -> Check:
    asked, batch = bytes_beside_the_model(plan), most // (_ENTRY * max(1, plan.dimension)) - _COPIES
    fix = f"lower micro_batch to {batch}" if batch >= 1 else "train a smaller adapter"
    return Check("site.memory", asked <= most, f"{asked} bytes", f"at most {most} bytes", fix)
