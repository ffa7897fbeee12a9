"""Epsilon is a view of events: privacy loss distributions by dp-accounting, Rényi DP beside them.

PLD with a discretisation of 1e-3, pessimistic, so what it says is an upper bound (Doroshenko et al. 2022); of 1e-4
where RDP finds epsilon below 2, for there the losses of single steps are so small that 1e-3 overstates some prices by
half. RDP is independent code, and a second opinion: looser by some per cent, except where delta is 1e-12 or so. A price
is the lower of the two.

Both composition theorems are for events that were fixed before the first of them ran, and for stopping before the last.
Where an event may depend on what earlier ones gave (another noise after a first run's results were seen), an account is
held by a Rényi filter instead (``epsilon_filter``; decision 11 has the argument).

Sums over every record are plain Gaussian mechanisms: however many there are, they are together one Gaussian, whose
noise is one over the root of the sum of their inverse squares, and that one is what is priced, once.

All of them speak of true Gaussian noise, and that is what is drawn: `training.rounded_gaussian` gives it exactly,
rounded to a public grid, whichever tensors it is for and however many they are.

Events that hide a member have no PLD: a sum of discrete Gaussians is not one, and in many dimensions no direction is
known to be the worst. They are priced by concentrated DP, with what the sum lacks of a discrete Gaussian counted
(Kairouz, Liu and Steinke 2021). The two kinds are never composed.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from securefl import wire
from securefl.privacy.account import Account, Charge, bound_of, caps_of, in_order
from securefl.terms import (
    Accountant,
    DistributedDiscreteGaussian,
    Event,
    FullBatchGaussian,
    Level,
    Limit,
    MicroEpsilon,
    MixedUnits,
    Plan,
    PoissonGaussian,
    Price,
    Unbounded,
    Unit,
    micro_epsilon,
)

INTERVAL = 1e-3
FINER = ((0.3, 1e-5), (2.0, 1e-4))  # intervals up to these epsilons by RDP: a price then never falls as events join
GRID = 2e9  # epsilons are rounded outward to multiples of 1 / GRID: by less than 1e-9 ...
SLACK = 2e-10  # ... and by more than composing in another order changes
_Kind = float | Literal["rdp", "filter"]  # of accountant: a PLD by its interval
_STRIDE = 100  # events composed without a stop
LARGEST, MOST_STEPS = 1000, 50_000  # beyond this epsilon or this many steps a distribution would fill the memory
FILTER_ORDERS = (1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0, 16.0, 24.0, 32.0, 64.0, 128.0)  # fixed for ever
ORDERS = tuple(1 + 2.0 ** (n / 16 - 8) for n in range(320))  # of Rényi divergences: 1.004 to 4000, in steps of 4 %
SPARED = 2.0**-10  # share of delta that is kept for what drawn shares of noise lack of ideal ones


def epsilon(events: Iterable[Event], delta: float) -> float:
    """Epsilon of all events together, for the one unit they hide: by PLD for records, by RDP for members.

    Raises:
        MixedUnits: they do not all hide the same unit.
        Unbounded: no finite epsilon describes them.
    """
    ordered = in_order(events)
    return _rdp(ordered, _checked(delta)) if unit_of(ordered) is Unit.CLIENT else _pld(ordered, _checked(delta))


def unit_of(events: Iterable[Event]) -> Unit | None:
    """Return what all of these hide; nothing for no events.

    Raises:
        MixedUnits: some hide records, some members.
    """
    units = {event.unit for event in events}
    if len(units) > 1:
        raise MixedUnits("what hides records and what hides members cannot stand on one account")
    return next(iter(units), None)


def epsilon_pld(events: Iterable[Event], delta: float) -> float:
    """Epsilon of all events together, at ``delta``, add-or-remove-one neighbours. 0 for no events.

    Raises:
        MixedUnits: an event hides members.
        Unbounded: no finite epsilon describes them.
    """
    ordered = in_order(events)
    if unit_of(ordered) is Unit.CLIENT:
        raise MixedUnits("shares of discrete Gaussian noise have no PLD: ask for `epsilon`")
    return _pld(ordered, _checked(delta))


def epsilon_rdp(events: Iterable[Event], delta: float) -> float:
    """The same by Rényi DP: an upper bound too, and looser than `epsilon_pld`; all there is for client-level events.

    Raises:
        MixedUnits: they do not all hide the same unit.
        Unbounded: no finite epsilon describes them.
    """
    return _rdp(in_order(events), _checked(delta))


def epsilon_filter(events: Iterable[Event], delta: float) -> float:
    """Epsilon of events of which each may depend on what all before it gave. 0 for no events.

    It is held below a limit before each event; then all together are (limit, delta)-DP, whatever depended on what.
    Each of ``FILTER_ORDERS`` gets an equal part of delta, and one part is left for costs too small for any of them. So
    which order is the best may depend on results as well.

    Raises:
        MixedUnits: they do not all hide the same unit.
        Unbounded: no finite epsilon describes them.
    """
    ordered = in_order(events)
    if unit_of(ordered) is Unit.CLIENT:  # multiples of one curve, so that one order is the best whatever they depend on
        return epsilon(ordered, delta)
    with _quiet():
        return _epsilon(_composed("filter", ordered), _checked(delta) / (len(FILTER_ORDERS) + 1)) if ordered else 0.0


def epsilon_charged(charges: Iterable[Charge], delta: float, bound: Accountant = Accountant.PLD) -> float:
    """Epsilon of charges together, at ``delta``, by this bound. 0 for none.

    Raises:
        Unbounded: no finite epsilon describes them.
    """
    return _epsilon_of([charge.event for charge in charges], delta, bound)


def epsilon_together(charges: Iterable[Charge], delta: float) -> float:
    """Epsilon of many charges that were all fixed beforehand; those of one mechanism are put together first.

    Raises:
        MixedUnits: they do not all hide the same unit.
        Unbounded: no finite epsilon describes them.
    """
    steps: dict[Event, int] = {}
    drawn: list[Event] = []
    for charge in charges:
        if charge.event.unit is Unit.CLIENT:  # an event is one sum, however many local steps it has
            drawn.append(charge.event)
        else:
            one = replace(charge.event, steps=1)
            steps[one] = steps.get(one, 0) + charge.event.steps
    drawn += [replace(event, steps=count) for event, count in steps.items()]
    return _epsilon_of(drawn, delta, Accountant.PLD) if drawn else 0.0


def _epsilon_of(events: Sequence[Event], delta: float, bound: Accountant) -> float:
    if bound is Accountant.FILTER and unit_of(events) is not Unit.CLIENT:  # for members the price is a filter already
        return epsilon_filter(events, delta)
    return bounded(events, delta)


def _checked(delta: float) -> float:
    if not 0 < delta < 1:
        raise Unbounded(f"delta={delta} is not in (0, 1)")
    return delta


@lru_cache(maxsize=4096)
def _pld(events: tuple[Event, ...], delta: float) -> float:
    if not events:
        return 0.0
    return _epsilon(_composed(interval_of(events, delta), events), delta)


def interval_of(events: Iterable[Event], delta: float) -> float:
    """The discretisation these events are priced with. n steps at h overstate epsilon by about n * (h / epsilon)**2."""
    return next((finer for bound, finer in FINER if epsilon_rdp(events, delta) <= bound), INTERVAL)


@lru_cache(maxsize=4096)
def _rdp(events: tuple[Event, ...], delta: float) -> float:
    shares = tuple(event for event in events if isinstance(event, DistributedDiscreteGaussian))
    if unit_of(events) is Unit.CLIENT:
        return _of_shares(shares, delta)
    with _quiet():
        return _epsilon(_composed("rdp", events), delta) if events else 0.0


def rho(event: DistributedDiscreteGaussian) -> float:
    """The event's concentrated DP: the third bound of Proposition 14 of Kairouz, Liu and Steinke (2021).

    Whatever other, independent shares are in the sum besides, it costs no more: adding them is post-processing.
    """
    deviation, honest = float(event.deviation), event.honest
    missing = 10 * math.fsum(math.exp(-2 * (math.pi * deviation) ** 2 * k / (k + 1)) for k in range(1, honest))
    scale = event.sensitivity / (math.sqrt(honest) * deviation)
    return (scale + missing * math.sqrt(event.dimension)) ** 2 / 2


def _of_shares(events: tuple[DistributedDiscreteGaussian, ...], delta: float) -> float:
    """Epsilon of ideal shares at nearly all of ``delta``; the rest pays for how they are drawn, on both sides."""
    import dp_accounting  # noqa: PLC0415
    from dp_accounting import rdp  # noqa: PLC0415

    accountant = rdp.RdpAccountant(ORDERS, _neighbours())
    accountant.compose(dp_accounting.ZCDpEvent(rho=math.fsum(rho(event) for event in events)))
    with _quiet():
        found = _epsilon(accountant, delta * (1 - SPARED))
    defect = float(sum(event.defect for event in events))
    if found > 700 or (1 + math.exp(found)) * defect > delta * SPARED:  # above 700 the exponential is no float
        raise Unbounded(f"epsilon={found:.3g} is more than shares drawn from 128-bit tables can be priced at")
    return found


def _composed(kind: _Kind, events: tuple[Event, ...]) -> Any:  # noqa: ANN401 - dp_accounting's own accountants
    """An accountant that has seen these events; one more event costs one more composition."""
    sampled = tuple(event for event in events if not isinstance(event, FullBatchGaussian))
    for end in range(0, len(sampled), _STRIDE):
        _accountant(kind, sampled[:end])  # so that the recursion below stays shallow
    accountant = _accountant(kind, sampled)
    if len(sampled) == len(events):
        return accountant
    return _with_gaussian(accountant, (event for event in events if isinstance(event, FullBatchGaussian)))


def _with_gaussian(accountant: Any, events: Iterable[FullBatchGaussian]) -> Any:  # noqa: ANN401
    """The same accountant after these too: one Gaussian of mean ``mu`` and deviation 1 (Dong, Roth and Su 2022)."""
    import dp_accounting  # noqa: PLC0415

    squares = math.fsum(float(event.steps / event.noise_multiplier**2) for event in events)  # in any order the same
    seen = copy.deepcopy(accountant)
    return seen.compose(dp_accounting.GaussianDpEvent(1 / math.sqrt(squares)))


@lru_cache(maxsize=256)
def _accountant(kind: _Kind, events: tuple[Event, ...]) -> Any:  # noqa: ANN401
    import dp_accounting  # noqa: PLC0415
    from dp_accounting import pld, rdp  # noqa: PLC0415

    if not events:
        if isinstance(kind, float):
            return pld.PLDAccountant(_neighbours(), value_discretization_interval=kind)
        return rdp.RdpAccountant(FILTER_ORDERS if kind == "filter" else None, _neighbours())
    accountant, event = copy.deepcopy(_accountant(kind, events[:-1])), events[-1]
    assert isinstance(event, PoissonGaussian), "other events are composed elsewhere"
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
    found = float(accountant.get_epsilon(delta))
    if not 0 <= found < math.inf:
        raise Unbounded(f"epsilon={found}")
    return math.ceil((found + SLACK) * GRID) / GRID


def price(plan: Plan, account: Account, dataset: str, delta: float, caps: Sequence[Limit] = ()) -> Price:
    """Return what this plan costs, alone and on top of what stands at each level; rounded up.

    A level at which other federations' policies hold charges too is priced at the least delta among them. A plan that
    hides the member comes on top of whatever else hides it, on any data set.

    Args:
        plan: what would run.
        account: the site's.
        dataset: its root.
        delta: at which the round, and levels without a cap, are priced.
        caps: what the plan's own policy says of each level.

    Raises:
        MixedUnits: what stands there hides another unit than the plan.
        Unbounded: no finite price.
    """
    event = plan.learning.event
    own = {(cap.level, cap.name): cap for cap in caps}
    named = (Level.DATASET, dataset), (Level.FEDERATION, plan.federation), (Level.RUN, plan.run.hex())
    after: dict[tuple[Level, str], MicroEpsilon] = {}
    held: list[Limit] = []
    for level, name in dict.fromkeys((*named, *own)):
        charges = account.beside(level, name, dataset, event.unit)
        others = [cap for cap in caps_of(charges, level, name) if cap.by != plan.federation]
        asked = [cap for cap in (own.get((level, name)), *others) if cap is not None]
        bound = (
            Accountant.FILTER
            if Accountant.FILTER in [cap.bound for cap in asked]
            else bound_of(charges, level, name, event)
        )
        least = min((float(cap.delta) for cap in asked), default=delta)
        total = [*(charge.event for charge in charges), event]
        after[level, name] = micro_epsilon(_epsilon_of(total, least, bound))
        held += [replace(cap, bound=bound) for cap in asked]
    return Price(
        plan=wire.plan_hash(plan),
        account=account.digest,
        round=micro_epsilon(_epsilon_of([event], delta, Accountant.PLD)),
        after={level: after[level, name] for level, name in named},
        above={name: after[level, name] for level, name in own if (level, name) not in named},
        caps=tuple(held),
    )


def bounded(events: Sequence[Event], delta: float) -> float:
    """The lower of two upper bounds, by PLD and by RDP; by RDP alone for members and where a PLD would take hours.

    RDP is the lower one at deltas of 1e-12 or so, where a PLD overstates: it pays for the tails that it cuts off.
    """
    rough = epsilon_rdp(events, delta)
    if rough > LARGEST or sum(event.steps for event in events) > MOST_STEPS:
        return rough
    return min(rough, epsilon(events, delta))
