"""The first plan of a federation's file under a policy: what a round is, how it is hidden, and what it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING

from securefl import wire
from securefl.documents.federation import Loaded
from securefl.documents.protection import ProtectionPart
from securefl.documents.strategy import StrategyPart
from securefl.errors import OperatorFault
from securefl.planning.patience import patience_of
from securefl.privacy.account import Account
from securefl.protection import noise_share
from securefl.protocol import messages as m
from securefl.strategy import server
from securefl.strategy.averaged import Averaged
from securefl.strategy.rules import FactorServer
from securefl.strategy.worldlm import AttentionServer
from securefl.terms import (
    AdapterRule,
    DistributedDiscreteGaussian,
    Event,
    FixedPoint,
    FullBatchGaussian,
    Hash,
    Learning,
    Model,
    Plan,
    PoissonGaussian,
    Price,
    ProtectionSpec,
    PublicKey,
    RunId,
    Scheme,
    Unbounded,
    Unit,
)
from securefl.terms.names import FederationName
from securefl.terms.plans import NOTHING
from securefl.terms.start import Start

if TYPE_CHECKING:
    from securefl.policy.load import Policy


Server = FactorServer | AttentionServer | Averaged


@dataclass(frozen=True, slots=True)
class FirstState:
    """What a first plan says of the model, of its state, and of the update: names and one number."""

    model: Model
    dimension: int  # entries of an update
    base: Hash = NOTHING  # what goes out: the start, and what the strategy puts behind it
    layout: Hash = NOTHING
    start: Hash = NOTHING

    @classmethod
    def of(cls, start: Start, strategy: Server) -> FirstState:
        """The first state that a strategy sends out for a start."""
        base = strategy.broadcast(start.state)
        layout, begun = wire.layout_digest(start.layout), m.state_digest(start.state)
        return cls(start.model, strategy.dimension(1, base), m.state_digest(base), layout, begun)


def plan_of(loaded: Loaded, policy: Policy, run: RunId, first: FirstState, custodian: PublicKey | None) -> Plan:
    """The plan of the first round; its cohort is filled in when the members have enrolled."""
    file = loaded.file
    training, covered = file.training, cover_of(loaded, policy, custodian)
    event = event_of(loaded, policy, covered, first.dimension)
    try:
        clipping = training.clipping.meant(training.divisor or 1, event.noise_multiplier)
    except ValueError as fault:  # noise that was calibrated is known only here
        raise OperatorFault(str(fault), "or give a larger epsilon", f"{loaded.path}: training.clipping") from fault
    return Plan(
        federation=FederationName(file.name),
        policy=policy.hash,
        run=run,
        round=1,
        purpose=file.purpose,
        model=first.model,
        task=file.task.task(),
        adapter=file.adapter.adapter(),
        learning=Learning(
            event=event,
            clip_l2=training.clip_l2,
            divisor=training.divisor or 1,
            learning_rate=training.learning_rate,
            optimizer=training.optimizer,
            max_tokens=training.max_tokens,
            micro_batch=training.micro_batch,
            clipping=clipping,
            micro_tokens=training.micro_tokens,
            loss=file.strategy.loss.loss(training.rounds),
        ),
        cover=covered,
        cohort=(),
        release=("weights",),
        base=first.base,
        dimension=first.dimension,
        sharing=file.strategy.sharing(file.task.labels),
        layout=first.layout,
        start=first.start,
        patience=patience_of(loaded, covered),
    )


def scheme_of(loaded: Loaded, policy: Policy) -> Scheme:
    """Return what the file's `protection` means."""
    return scheme_under(loaded.file.protection, policy)


def scheme_under(protection: ProtectionPart, policy: Policy) -> Scheme:
    """Return what `protection` means: encryption has masks inside, unless the policy trusts the custodian."""
    return protection.scheme if "custodian" in policy.protection.trust else protection.scheme.masked


def cover_of(loaded: Loaded, policy: Policy, custodian: PublicKey | None) -> ProtectionSpec:
    """Return how this federation's updates are hidden."""
    return cover_under(loaded.file.protection, len(loaded.file.members), policy, custodian)


def cover_under(cover: ProtectionPart, members: int, policy: Policy, custodian: PublicKey | None) -> ProtectionSpec:
    """How updates are hidden; what `protection` does not say follows from the policy and the number of members."""
    colluding = policy.protection.colluding if cover.colluding is None else cover.colluding
    safe = (members + colluding) // 2 + 1
    return ProtectionSpec(
        scheme=scheme_under(cover, policy),
        min_cohort=policy.protection.min_cohort if cover.min_cohort is None else cover.min_cohort,
        threshold=max(safe, policy.protection.threshold.at_least) if cover.threshold is None else cover.threshold,
        colluding=colluding,
        encoding=FixedPoint(cover.value_bits, cover.fraction_bits, cover.ring_bits),
        custodian=custodian,
    )


def event_of(loaded: Loaded, policy: Policy, cover: ProtectionSpec, dimension: int) -> Event:
    """Return what one round is priced as; for clients, with as many shares of noise as are sure to be in every sum.

    Raises:
        OperatorFault: the grid does not bear the noise.
    """
    training, bits = loaded.file.training, cover.encoding.fraction_bits
    if training.unit is Unit.RECORD:
        multiplier = noise_of(loaded, policy)
        if training.sampler == "full":
            return FullBatchGaussian(multiplier, training.steps)
        return PoissonGaussian(training.rate, multiplier, training.steps)
    if loaded.file.adapter.rule is AdapterRule.ALTERNATING:
        what = "rule alternating trains another number of values every round; unit client is priced for one number"
        raise OperatorFault(what, "use b-only or svd", f"{loaded.path}: adapter.rule")
    from securefl.privacy.calibration import calibrate_shares  # noqa: PLC0415

    def shares(noise: Fraction) -> DistributedDiscreteGaussian:
        return DistributedDiscreteGaussian(
            training.clip_l2, noise, max(1, cover.honest), dimension, bits, training.rate, training.steps
        )

    noise, delta, place = training.noise_multiplier, float(policy.budget.delta_share), f"{loaded.path}: training"
    try:
        if noise is None:
            assert training.epsilon is not None, "the document has one of the two"
            noise = calibrate_shares(float(training.epsilon), delta, shares, training.rounds)
        event = shares(noise)
    except ValueError as fault:
        remedy = "give more noise or epsilon, or change protection.fraction_bits"
        raise OperatorFault(f"no noise fits: {fault}", remedy, place) from fault
    if event.deviation > noise_share.LARGEST:
        fitting = bits - math.ceil(math.log2(event.deviation / noise_share.LARGEST))
        what = f"shares of noise of {float(event.deviation):.0f} grid units, above {noise_share.LARGEST}"
        raise OperatorFault(what, f"set protection.fraction_bits to at most {fitting}", place)
    return event


def noise_of(loaded: Loaded, policy: Policy) -> Fraction:
    """The noise multiplier: as written, or the least with which all rounds cost at most the written epsilon."""
    training = loaded.file.training
    if training.noise_multiplier is not None:
        return training.noise_multiplier
    from securefl.privacy.calibration import calibrate, cheapest  # noqa: PLC0415

    assert training.epsilon is not None, "the document has one of the two"
    asked, delta, steps = float(training.epsilon), float(policy.budget.delta_share), training.rounds * training.steps
    rate = None if training.sampler == "full" else training.rate
    try:
        least = cheapest(delta, rate, steps)
    except Unbounded as fault:
        raise delta_too_small(loaded, delta, rate, steps) from fault
    if least > asked:
        what = f"found {asked:g}; all {steps} steps cost at least {least:.3g} at delta {delta:g}, whatever the noise"
        remedy = f"write at least {in_three_digits(least, math.ceil)}, or give fewer rounds and steps"
        raise OperatorFault(what, remedy, f"{loaded.path}: training.epsilon")
    return calibrate(asked, delta, rate, steps)


def delta_too_small(loaded: Loaded, delta: float, sampling_rate: Fraction | None, steps: int) -> OperatorFault:
    """The fault of a policy at whose delta no noise has a finite cost, with the least power of ten that has one."""
    from securefl.privacy.calibration import cheapest  # noqa: PLC0415

    for power in range(math.floor(math.log10(delta)) + 1, 0):
        try:
            cheapest(10.0**power, sampling_rate, steps)
        except Unbounded:
            continue
        what = f"found {delta:g}, at which no noise has a finite cost over {steps} steps"
        place = f"{loaded.folder / loaded.file.policy}: budget.delta"
        return OperatorFault(what, f"agree on a policy with a delta of at least 1e{power}", place)
    raise AssertionError("at a delta of 0.1 noise has a price")


def in_three_digits(value: float | Fraction, rounded: Callable[[float | Fraction], int]) -> str:
    """Three digits of a number above 0, by ``math.ceil`` or ``math.floor``: what a remedy names is on the safe side."""
    digits = 2 - math.floor(math.log10(value))
    return f"{rounded(value * 10**digits) / 10**digits:.{max(digits, 0)}f}"


def price_in(policy: Policy, dataset: str) -> Callable[[Plan, Account], Price]:
    """Return what a plan costs a site under this policy, on every account it counts in."""
    from securefl.privacy.accountant import price  # noqa: PLC0415

    return partial(_price, price, dataset, policy)


def _price(price: Callable[..., Price], dataset: str, policy: Policy, plan: Plan, account: Account) -> Price:
    return price(plan, account, dataset, float(policy.budget.delta_share), policy.caps(dataset, plan.run))


def strategy_of(loaded: Loaded, start: Start) -> Server:
    """The coordinator's half, on the tensors of this start.

    Raises:
        OperatorFault: the file's strategy does not fit the adapter.
    """
    file = loaded.file
    return strategy_on(start, file.strategy, file.task.labels, f"{loaded.path}: strategy", file.training.rounds)


def strategy_on(
    start: Start, strategy: StrategyPart, labels: tuple[str, ...], place: str, rounds: int | None = None
) -> Server:
    """The coordinator's half of `strategy`, on the tensors of this start.

    Args:
        start: where training begins.
        strategy: of a document.
        labels: of the task.
        place: the document in an error.
        rounds: of the run; None for rounds inside another federation's, whose strategy averages nothing.

    Raises:
        OperatorFault: the strategy does not fit the adapter.
    """
    optimizer = server.optimizer(strategy)
    try:
        sharing = strategy.sharing(labels)
        if sharing.attention is not None:
            return AttentionServer(start.layout, optimizer, sharing.attention, start.state)
        made = FactorServer(start.layout, optimizer, sharing)
        if rounds is None or strategy.average_last == 1:
            return made
        return Averaged(made, rounds, strategy.average_last)
    except ValueError as fault:
        raise OperatorFault(str(fault), "change `strategy`, or the adapter", place) from fault
