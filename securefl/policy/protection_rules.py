"""Rules about how updates are hidden: by what, among how many, from whom, and on which grid they are added."""

from __future__ import annotations

import math
from dataclasses import replace

from securefl.policy.checks import Check, at_least, between, both, listed, one_of
from securefl.policy.load import safe_threshold
from securefl.policy.narrow import decimal  # exactly, so that what is told to fix a plan does
from securefl.policy.rule import Question, Rule
from securefl.protection import honest_count
from securefl.terms import DistributedDiscreteGaussian, Sharing

_FINE_BITS = 20  # of a grid on which no weight rounds to nothing


def _scheme(rule: str, asked: Question) -> Check:
    allowed = tuple(scheme.value for scheme in asked.policy.protection.schemes)
    return one_of(rule, "protection", asked.plan.cover.scheme.value, allowed)


def _min_cohort(rule: str, asked: Question) -> Check:
    return at_least(rule, "min_cohort", asked.plan.cover.min_cohort, asked.policy.protection.min_cohort)


def _cohort(rule: str, asked: Question) -> Check:
    least = max(asked.plan.cover.min_cohort, asked.policy.protection.min_cohort)
    return at_least(rule, "members", len(asked.plan.cohort), least)


def _colluding(rule: str, asked: Question) -> Check:
    return at_least(rule, "colluding", asked.plan.cover.colluding, asked.policy.protection.colluding)


def _honest(rule: str, asked: Question) -> Check:
    """Enough honest inputs of like weight stand behind every sum."""
    plan, cover, sums = asked.plan, asked.plan.cover, asked.plan.sharing.sums
    ratio = honest_count.weight_ratio(plan)
    by, fix = "", f"raise min_cohort to {cover.colluding + math.ceil((sums + 1) * (ratio or 1))}"
    if ratio is None:
        by, fix = ", weights that the grid rounds to nothing", f"raise fraction_bits to {_FINE_BITS}"
    elif ratio > 1:
        by = f", weights up to {float(ratio):.4g} : 1"
    return Check(
        rule, not honest_count.few(plan), f"min_cohort {cover.min_cohort} - colluding {cover.colluding}{by}",
        f"above the {sums} {'sum' if sums == 1 else 'sums'} of a round", fix,
    )  # fmt: skip


def _whole_cohort(rule: str, asked: Question) -> Check:
    """Weights that members keep are added over one and the same cohort."""
    stale, members = honest_count.stale(asked.plan), len(asked.plan.cohort)
    return Check(
        rule, not stale, stale or f"{members} members", "the whole cohort, or no weights that are kept",
        f"raise min_cohort to {members}",
    )  # fmt: skip


def _fresh(rule: str, asked: Question) -> Check:
    """Whatever leaves has noise of this round."""
    faint = honest_count.faint(asked.plan)
    return Check(
        rule, not faint, faint or f"learning rate {decimal(asked.plan.learning.learning_rate)}",
        "noise of at least one grid step",
        f"raise learning_rate to {decimal(honest_count.least_rate(asked.plan))}" if faint else "",
    )  # fmt: skip


def _honest_shares(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    """Noise that members share out is priced for the shares that are sure."""
    event, cover = asked.plan.learning.event, asked.plan.cover
    if not isinstance(event, DistributedDiscreteGaussian):
        return ()
    counted, sure = event.honest, cover.honest
    return Check(
        rule, counted <= sure, f"priced for {counted} honest shares of noise", f"at most the {sure} that are sure",
        f"lower honest to {sure}" if sure > 0 else f"raise min_cohort to {cover.colluding + counted}",
    )  # fmt: skip


def _shared_whole(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    if not isinstance(asked.plan.learning.event, DistributedDiscreteGaussian):
        return ()
    whole = asked.plan.sharing == Sharing()
    return Check(
        rule, whole, "the whole update, unweighted" if whole else "parts or weights of it",
        "the whole update, unweighted, whose norm is priced", "leave weights, home and pull out, or hide records",
    )  # fmt: skip


def _seats(rule: str, asked: Question) -> Check:
    cohort = asked.plan.cohort
    distinct = len({seat.member for seat in cohort}) == len(cohort) == len({seat.key for seat in cohort})
    return Check(
        rule, distinct, "all different" if distinct else "a member or key twice", "each member and key once",
        "name each member once, with a key of its own",
    )  # fmt: skip


def _threshold(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    cover, limit = asked.plan.cover, asked.policy.protection.threshold.at_least
    if not cover.scheme.has_masks:
        return ()
    least = max(limit, safe_threshold(len(asked.plan.cohort), cover.colluding))
    return at_least(rule, "threshold", cover.threshold, least)


def _reachable(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    members, cover = len(asked.plan.cohort), asked.plan.cover
    if not cover.scheme.has_masks:
        return ()
    return Check(
        rule, cover.threshold <= members, str(cover.threshold), f"at most the {members} members",
        f"lower threshold to {members}, or have {cover.threshold} members",
    )  # fmt: skip


def _custodian(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    """Whoever holds the decryption key is no member."""
    cover = asked.plan.cover
    if not cover.scheme.has_custodian:
        return ()
    apart = cover.custodian is not None and cover.custodian not in {seat.key for seat in asked.plan.cohort}
    found = "no custodian" if cover.custodian is None else f"key {cover.custodian.hex()[:16]}"
    return Check(rule, apart, found, "a key that no member holds", "name a custodian who is no member")


def _trust(rule: str, asked: Question) -> Check | tuple[Check, ...]:
    """A custodian who could open a single update has the policy's trust."""
    scheme, trust = asked.plan.cover.scheme, asked.policy.protection.trust
    if not scheme.has_custodian:
        return ()
    opens = "can open a single update" if scheme.trusts_custodian else "opens noise and sums"
    return Check(
        rule, "custodian" in trust or not scheme.trusts_custodian, f"{scheme.value}, whose custodian {opens}",
        f"trust in {listed(trust)}", f"set protection to {scheme.masked.value}",
    )  # fmt: skip


def _capacity(rule: str, asked: Question) -> Check:
    """The sum cannot wrap around, noise and all; a ring that nobody computes in holds nothing."""
    members, encoding, event = len(asked.plan.cohort), asked.plan.cover.encoding, asked.plan.learning.event
    ring = encoding.ring_bits if 1 <= encoding.ring_bits <= 64 else 64
    capacity = encoding.capacity() if 1 <= encoding.value_bits <= encoding.ring_bits <= 64 else 0
    bits = encoding.value_bits if members <= capacity else max(1, ring - max(0, members - 1).bit_length())
    value, limit = f"{members} members", f"at most {capacity} in this encoding"
    fix, held = f"set ring_bits to {ring} and value_bits to {bits}", members <= capacity
    if isinstance(event, DistributedDiscreteGaussian):
        fitting = _coarser(event, bits)
        held = held and event.longest >> max(0, encoding.value_bits - 1) == 0
        value, limit = f"{value}, {event.longest} grid units each", f"{limit}, in {encoding.value_bits} bits"
        fix += f" and fraction_bits to {fitting}"
    return Check(rule, held, value, limit, fix)


def _coarser(event: DistributedDiscreteGaussian, value_bits: int) -> int:
    """The finest grid, no finer than the event's own, on which an update with its noise has so many bits."""
    for fraction_bits in range(event.fraction_bits, 0, -1):
        try:
            longest = replace(event, fraction_bits=fraction_bits).longest
        except ValueError:  # a share of less than a grid unit
            break
        if longest >> max(0, value_bits - 1) == 0:
            return fraction_bits
    return 0


def _grid(rule: str, asked: Question) -> Check:
    """Fine enough for what is learned, and no wider than what one member may add."""
    rules, encoding = asked.policy.protection.grid, asked.plan.cover.encoding
    fine, wide = rules.fraction_bits, rules.value_bits.at_most
    fraction = between(rule, "fraction_bits", encoding.fraction_bits, fine.at_least, fine.at_most)
    bits = between(rule, "value_bits", encoding.value_bits, 1, wide)
    return both(
        fraction, bits, f"fraction_bits {fraction.value}, value_bits {bits.value}",
        f"fraction_bits {fraction.limit}, value_bits {bits.limit}",
    )  # fmt: skip


_COVER, _COHORT, _EVENT = "plan.cover", "plan.cohort", "plan.learning.event"
_COUNTED = (f"{_COVER}.min_cohort", f"{_COVER}.colluding")
_LIMIT = "protection"
PROTECTION = (
    Rule("protection.schemes", (f"{_COVER}.scheme",), (f"{_LIMIT}.schemes",), _scheme),
    Rule("protection.min_cohort", (f"{_COVER}.min_cohort",), (f"{_LIMIT}.min_cohort",), _min_cohort),
    Rule("protection.cohort", (_COHORT, f"{_COVER}.min_cohort"), (f"{_LIMIT}.min_cohort",), _cohort),
    Rule("protection.colluding", (f"{_COVER}.colluding",), (f"{_LIMIT}.colluding",), _colluding),
    Rule("protection.honest", (*_COUNTED, "plan.sharing", f"{_COVER}.encoding"), (), _honest),
    Rule("protection.whole_cohort", (f"{_COVER}.min_cohort", _COHORT, "plan.sharing"), (), _whole_cohort),
    Rule("protection.fresh", ("plan.learning", "plan.sharing", f"{_COVER}.encoding"), (), _fresh),
    Rule("protection.honest_shares", (_EVENT, f"{_COVER}.scheme", *_COUNTED), (), _honest_shares),
    Rule("protection.shared_whole", ("plan.sharing", _EVENT), (), _shared_whole),
    Rule("protection.seats", (_COHORT,), (), _seats),
    Rule(
        "protection.threshold", (f"{_COVER}.threshold", f"{_COVER}.colluding", f"{_COVER}.scheme", _COHORT),
        (f"{_LIMIT}.threshold.at_least",), _threshold,
    ),
    Rule("protection.threshold.reachable", (f"{_COVER}.threshold", f"{_COVER}.scheme", _COHORT), (), _reachable),
    Rule("protection.custodian", (f"{_COVER}.custodian", f"{_COVER}.scheme", _COHORT), (), _custodian),
    Rule("protection.trust", (f"{_COVER}.scheme",), (f"{_LIMIT}.trust",), _trust),
    Rule("protection.capacity", (f"{_COVER}.encoding", _COHORT, _EVENT), (), _capacity),
    Rule(
        "protection.grid", (f"{_COVER}.encoding",),
        tuple(
            f"{_LIMIT}.grid.{each}"
            for each in ("fraction_bits.at_least", "fraction_bits.at_most", "value_bits.at_most")
        ),
        _grid,
    ),
)  # fmt: skip
