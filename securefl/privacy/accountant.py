"""Epsilon is a view of events: privacy loss distributions by dp-accounting, Rényi DP beside them.

PLD with a discretisation of 1e-3, pessimistic, so what it says is an upper bound (Doroshenko et al. 2022). RDP is
looser by some per cent and independent code, so it is a second opinion: PLD above RDP would be a bug.

Both composition theorems are for events that were fixed before the first of them ran, and for stopping before the last.
Where an event may depend on what earlier ones gave (another noise after a first run's results were seen), an account is
held by a Rényi filter instead (``epsilon_filter``; decision 11 has the argument).

All of them speak of true Gaussian noise. Noise that ends, as `training.noise.gaussian` does, is told apart from it
where a value lies beyond the end; how likely that is, is taken off delta first (``delta_left``).
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from securefl import wire
from securefl.privacy.account import Account, Charge, bound_of, caps_of, in_order
from securefl.terms import (
    Bound,
    Cap,
    Event,
    Level,
    MicroEpsilon,
    Plan,
    PoissonGaussian,
    Price,
    Unbounded,
    micro_epsilon,
)

INTERVAL = 1e-3
GRID = 2e9  # epsilons are rounded outward to multiples of 1 / GRID: by less than 1e-9 ...
SLACK = 2e-10  # ... and by more than composing in another order changes
NOISE_END = 8.57  # standard deviations, rounded down: sqrt(2 * 53 * ln 2) is where 53-bit Box-Muller ends
_STRIDE = 100  # events composed without a stop
LARGEST, MOST_STEPS = 1000, 1_000_000  # beyond this epsilon or this many steps a distribution would fill the memory
FILTER_ORDERS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0)  # fixed for ever
FILTER_ENDS = 2.0**-10  # share of delta that a filter keeps for noise that ends
NOISE_GRID = 10_000  # calibrated noise multipliers are multiples of 1 / NOISE_GRID


def epsilon_pld(events: Iterable[Event], delta: float) -> float:
    """Epsilon of all events together, at ``delta``, add-or-remove-one neighbours. 0 for no events.

    Raises:
        Unbounded: no finite epsilon describes them.
    """
    return _pld(in_order(events), _checked(delta))


def epsilon_rdp(events: Iterable[Event], delta: float) -> float:
    """The same by Rényi DP: an upper bound too, and looser than `epsilon_pld`.

    Raises:
        Unbounded: no finite epsilon describes them.
    """
    return _rdp(in_order(events), _checked(delta))


def epsilon_filter(events: Iterable[Event], delta: float) -> float:
    """Epsilon of events of which each may depend on what all before it gave. 0 for no events.

    It is held below a limit before each event; then all together are (limit, delta)-DP, whatever depended on what.
    Each of ``FILTER_ORDERS`` gets an equal part of delta, and one part is left for costs too small for any of them. So
    which order is the best may depend on results as well.

    Raises:
        Unbounded: no finite epsilon describes them.
    """
    ordered = in_order(events)
    with _quiet():
        return _epsilon(_composed("filter", ordered), _checked(delta) / (len(FILTER_ORDERS) + 1)) if ordered else 0.0


def delta_beyond(event: Event, dimension: int) -> float:
    """What an event adds to delta because its noise ends at ``NOISE_END`` standard deviations.

    Two data sets' noised sums have densities in the ratio of true Gaussians wherever both can lie. Where only one can,
    a value is beyond the other's end: by chance in any of the values, or because the record that only one has moved a
    value towards the end, worst by its whole clip in a single value. The first is counted twice, which covers dividing
    by the probability that no value is beyond.
    """
    moved = NOISE_END - 1 / float(event.noise_multiplier)
    anywhere = 2 * (dimension + 1) * _outside(NOISE_END)  # one more value where records are counted
    return event.steps * (anywhere + float(event.sampling_rate) * _outside(moved))


def _left(delta: float, beyond: float) -> float:
    if beyond >= delta:
        raise Unbounded(f"so little noise that its end alone costs delta {beyond:.3g} of {delta:g}")
    return delta - beyond


def _outside(end: float) -> float:
    """The mass of a standard normal beyond ``end`` on either side; near 2, so no price at all, far below 0."""
    return math.erfc(end / math.sqrt(2))


def delta_left(delta: float, charges: Iterable[Charge]) -> float:
    """Delta without what the charges' noise adds to it by ending."""
    return delta - math.fsum(delta_beyond(charge.event, charge.dimension) for charge in charges)


def epsilon_charged(charges: Iterable[Charge], delta: float, bound: Bound = Bound.PLD) -> float:
    """Epsilon of charges together, at ``delta``, by this bound, with the noise that was really drawn. 0 for none.

    Raises:
        Unbounded: no finite epsilon describes them.
    """
    counted = tuple(charges)
    return _epsilon_of([(charge.event, charge.dimension) for charge in counted], delta, bound, rough=False)


def _epsilon_of(drawn: Sequence[tuple[Event, int]], delta: float, bound: Bound, *, rough: bool) -> float:
    """Epsilon of events with the dimension of each; ``rough`` settles for RDP where PLD would take hours."""
    events, beyond = [event for event, _ in drawn], math.fsum(delta_beyond(*each) for each in drawn)
    if bound is Bound.FILTER:
        if beyond > delta * FILTER_ENDS:
            raise Unbounded(f"so little noise that its end alone costs delta {beyond:.3g}, of {delta * FILTER_ENDS:g}")
        return epsilon_filter(events, delta * (1 - FILTER_ENDS))
    left = _left(delta, beyond)
    return _bounded(events, left) if rough else epsilon_pld(events, left)


def _checked(delta: float) -> float:
    if not 0 < delta < 1:
        raise Unbounded(f"delta={delta} is not in (0, 1)")
    return delta


@lru_cache(maxsize=4096)
def _pld(events: tuple[Event, ...], delta: float) -> float:
    return _epsilon(_composed("pld", events), delta) if events else 0.0


@lru_cache(maxsize=4096)
def _rdp(events: tuple[Event, ...], delta: float) -> float:
    with _quiet():
        return _epsilon(_composed("rdp", events), delta) if events else 0.0


def _composed(kind: str, events: tuple[Event, ...]) -> Any:  # noqa: ANN401 - dp_accounting's own accountants
    """An accountant that has seen these events; one more event costs one more composition."""
    for end in range(0, len(events), _STRIDE):
        _accountant(kind, events[:end])  # so that the recursion below stays shallow
    return _accountant(kind, events)


@lru_cache(maxsize=256)
def _accountant(kind: str, events: tuple[Event, ...]) -> Any:  # noqa: ANN401
    import dp_accounting  # noqa: PLC0415
    from dp_accounting import pld, rdp  # noqa: PLC0415

    if not events:
        if kind == "pld":
            return pld.PLDAccountant(_neighbours(), value_discretization_interval=INTERVAL)
        return rdp.RdpAccountant(FILTER_ORDERS if kind == "filter" else None, _neighbours())
    accountant, event = copy.deepcopy(_accountant(kind, events[:-1])), events[-1]
    gaussian = dp_accounting.GaussianDpEvent(float(event.noise_multiplier))
    accountant.compose(dp_accounting.PoissonSampledDpEvent(float(event.sampling_rate), gaussian), event.steps)
    return accountant


@contextmanager
def _quiet() -> Iterator[None]:
    """The library warns of every order it leaves out; leaving orders out only makes the bound looser."""
    log = logging.getLogger("absl")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def _neighbours() -> Any:  # noqa: ANN401 - dp_accounting's own enum
    import dp_accounting  # noqa: PLC0415

    return dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE


def _epsilon(accountant: Any, delta: float) -> float:  # noqa: ANN401
    epsilon = float(accountant.get_epsilon(delta))
    if not 0 <= epsilon < math.inf:
        raise Unbounded(f"epsilon={epsilon}")
    return math.ceil((epsilon + SLACK) * GRID) / GRID


def price(plan: Plan, account: Account, dataset: str, delta: float, caps: Sequence[Cap] = ()) -> Price:
    """What this plan costs, alone and on top of what stands at each level; rounded up.

    A level at which other federations' policies hold charges too is priced at the least delta among them. Charges of
    another unit than the plan's are not on its account.

    Args:
        plan: what would run.
        account: the site's.
        dataset: its root.
        delta: at which the round, and levels without a cap, are priced.
        caps: what the plan's own policy says of each level.

    Raises:
        Unbounded: no finite price.
    """
    event, drawn = plan.learning.event, (plan.learning.event, plan.dimension)
    own = {(cap.level, cap.name): cap for cap in caps}
    named = (Level.DATASET, dataset), (Level.FEDERATION, plan.federation), (Level.RUN, plan.run.hex())
    after: dict[tuple[Level, str], MicroEpsilon] = {}
    held: list[Cap] = []
    for level, name in dict.fromkeys((*named, *own)):
        charges = account.standing(level, name, dataset, event.unit)
        others = [cap for cap in caps_of(charges, level, name) if cap.by != plan.federation]
        asked = [cap for cap in (own.get((level, name)), *others) if cap is not None]
        bound = Bound.FILTER if Bound.FILTER in [cap.bound for cap in asked] else bound_of(charges, level, name, event)
        least = min((float(cap.delta) for cap in asked), default=delta)
        total = [*((charge.event, charge.dimension) for charge in charges), drawn]
        after[level, name] = micro_epsilon(_epsilon_of(total, least, bound, rough=True))
        held += [replace(cap, bound=bound) for cap in asked]
    return Price(
        plan=wire.plan_hash(plan),
        account=account.digest,
        round=micro_epsilon(_epsilon_of([drawn], delta, Bound.PLD, rough=True)),
        after={level: after[level, name] for level, name in named},
        above={name: after[level, name] for level, name in own if (level, name) not in named},
        caps=tuple(held),
    )


def _bounded(events: Sequence[Event], delta: float) -> float:
    """Epsilon by PLD; by RDP, which is above it, where a proposal would keep its site busy for hours."""
    rough = epsilon_rdp(events, delta)
    if rough > LARGEST or sum(event.steps for event in events) > MOST_STEPS:
        return rough
    return epsilon_pld(events, delta)


def calibrate(target: float, delta: float, sampling_rate: Fraction, steps: int, dimension: int = 1) -> Fraction:
    """The least noise multiplier above 0.1, on a grid of 1/10000, whose cost is at most ``target``: rounded up.

    ``dimension`` values are drawn in a step.

    Raises:
        Unbounded: the target is not positive and finite, or no noise below 1000 reaches it.
    """
    if not 0 < target < math.inf:
        raise Unbounded(f"epsilon={target}")

    def cost(ticks: int) -> float:
        event = PoissonGaussian(sampling_rate, Fraction(ticks, NOISE_GRID), steps)
        left = delta - delta_beyond(event, dimension)
        return _bounded((event,), left) if left > 0 else math.inf

    low, high = NOISE_GRID // 10, NOISE_GRID  # below 0.1 the accountant has nothing useful to say
    while cost(high) > target:
        low, high = high, high * 2
        if high > 1000 * NOISE_GRID:
            what = f"epsilon {target} at delta {delta} over {steps} steps at rate {sampling_rate}"
            raise Unbounded(f"{what}, {dimension} values each, needs noise above 1000")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if cost(middle) > target else (low, middle)
    return Fraction(high, NOISE_GRID)
