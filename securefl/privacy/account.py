"""What a site has promised and spent: a fold over its ledger, so the two cannot differ.

A charge is reserved before training and settled with what really ran. It never gets cheaper than what ran, and a plan
is charged once, whatever happens: a freed plan cannot be reserved again.

One charge counts in several accounts, and once in each: its data set's, which is the root; its federation's, and that
of every federation above, on this data set; and its run's. What hides records composes in parallel over the data sets
of a site, for these are disjoint, unless the policy's ``overlap`` says otherwise. What hides the member does not: the
neighbour is all that the member has, so whatever data sets it stands on adds up, on every level (``beside``). No
account spans two units: what hides records and what hides members stands on data sets of their own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum

from securefl import wire
from securefl.errors import Fault
from securefl.terms import (
    Accountant,
    Entry,
    Event,
    Hash,
    Level,
    Limit,
    MicroEpsilon,
    ReservationReleased,
    Reserved,
    RunId,
    Settled,
    Unit,
    covering,
)


class AccountFault(Fault):
    """Entries that no honest site writes: a second reservation of one plan, a settlement of what costs less."""

    exit_code = 4


class Standing(StrEnum):
    """What became of a charge."""

    RESERVED = "reserved"
    SETTLED = "settled"
    FREED = "freed"


@dataclass(frozen=True, slots=True)
class Charge:
    """One plan, on one account."""

    plan: Hash
    federation: str
    dataset: str
    run: RunId
    round: int
    event: Event
    cost: MicroEpsilon  # of this plan alone, as it was priced
    standing: Standing
    caps: tuple[Limit, ...] = ()  # by its own policy; the bound of each is the one it was compared by

    def counts_at(self, level: Level, name: str) -> bool:
        """Return whether it is part of what this name has spent at this level."""
        return name in self.names_at(level)

    def names_at(self, level: Level) -> frozenset[str]:
        """Whose limits it counts against at this level: several federations, if some stand above its own."""
        if level is Level.DATASET:
            return frozenset({self.dataset})
        if level is Level.RUN:
            return frozenset({self.run.hex()})
        return frozenset({self.federation, *(cap.name for cap in self.caps if cap.level is level)})


@dataclass(frozen=True, slots=True)
class Account:
    """All charges of one site, by plan, in the order they were made."""

    by_plan: dict[Hash, Charge] = field(default_factory=dict)

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Account:
        """The account these entries amount to; linear in their number.

        Raises:
            AccountFault: they do not fit together.
        """
        return cls().after(entries)

    def after(self, entries: Iterable[Entry]) -> Account:
        """The account after these entries too; linear in the number of both.

        Raises:
            AccountFault: they do not fit this account.
        """
        charges = dict(self.by_plan)
        for entry in entries:
            charges.update(_moved(charges, entry))
        return Account(charges)

    def apply(self, entry: Entry) -> Account:
        """The account after one more entry; most entries change nothing.

        Raises:
            AccountFault: the entry does not fit this account.
        """
        moved = _moved(self.by_plan, entry)
        return Account({**self.by_plan, **moved}) if moved else self

    @property
    def charges(self) -> tuple[Charge, ...]:
        """Every charge, in the order they were made."""
        return tuple(self.by_plan.values())

    def knows(self, plan: Hash) -> bool:
        """Return whether this plan was ever reserved here, also when it was freed again."""
        return plan in self.by_plan

    def standing(
        self, level: Level, name: str, dataset: str | None = None, unit: Unit | None = None
    ) -> tuple[Charge, ...]:
        """The charges that count at this level: reserved and settled; of one data set, of one unit, or of all."""
        return tuple(
            charge
            for charge in self.by_plan.values()
            if charge.standing is not Standing.FREED
            and charge.counts_at(level, name)
            and dataset in (None, charge.dataset)
            and unit in (None, charge.event.unit)
        )

    def beside(self, level: Level, name: str, dataset: str, unit: Unit) -> tuple[Charge, ...]:
        """The charges at this level that one of this unit, on this data set, adds up with: reserved and settled.

        Those of the data set, of either unit, for the two cannot be added and whoever prices them has to see it. With
        what hides the member, whatever else hides it: at the level of data sets that of all of them.
        """
        return tuple(
            charge
            for charge in self.by_plan.values()
            if charge.standing is not Standing.FREED
            and (
                (charge.dataset == dataset and charge.counts_at(level, name))
                or (unit is Unit.CLIENT is charge.event.unit and _counts_for_a_member(charge, level, name))
            )
        )

    def events(self, level: Level, name: str, dataset: str | None = None) -> tuple[Event, ...]:
        """Return what counts at this level: the same for every order of charges."""
        return in_order(charge.event for charge in self.standing(level, name, dataset))

    @property
    def digest(self) -> Hash:
        """A name for all charges and where they stand; a price is good for one name. Their order does not matter."""
        return wire.digest("account", tuple(sorted(self.by_plan.values(), key=lambda charge: charge.plan)))


def _moved(charges: dict[Hash, Charge], entry: Entry) -> dict[Hash, Charge]:
    """The one charge an entry makes or changes, if it does."""
    if isinstance(entry, Reserved):
        plan = wire.plan_hash(entry.plan)
        if plan in charges:
            raise AccountFault(f"plan {plan.hex()[:12]} is reserved twice")
        caps = tuple(cap for cap in entry.price.caps if cap.by == entry.plan.federation)
        made = Charge(
            plan, entry.plan.federation, entry.dataset, entry.plan.run, entry.plan.round, entry.plan.learning.event,
            entry.price.round, Standing.RESERVED, caps,
        )  # fmt: skip
        return {plan: _sharing_with(next(reversed(charges.values()), None), made)}
    if isinstance(entry, Settled | ReservationReleased):
        charge = charges.get(entry.plan)
        if charge is None or charge.standing is not Standing.RESERVED:
            raise AccountFault(f"plan {entry.plan.hex()[:12]} has no reservation to settle or free")
        if isinstance(entry, ReservationReleased):
            return {entry.plan: replace(charge, standing=Standing.FREED)}
        _check_did(entry, charge.event)
        event = charge.event if entry.did == charge.event else entry.did
        return {entry.plan: replace(charge, event=event, standing=Standing.SETTLED)}
    return {}


def _sharing_with(last: Charge | None, made: Charge) -> Charge:
    """The same charge; what equals the last charge's is that very object, for rounds of a run differ in little."""
    if last is None:
        return made
    event = last.event if last.event == made.event else made.event
    return replace(made, event=event, caps=last.caps if last.caps == made.caps else made.caps)


def _check_did(entry: Settled, reserved: Event) -> None:
    """Check that what was settled is what was reserved: fewer steps of it, or what costs at least as much."""
    did = entry.did
    fewer = replace(did, steps=reserved.steps) == reserved and did.steps <= reserved.steps
    if not fewer and did != covering(reserved, did):
        raise AccountFault(f"plan {entry.plan.hex()[:12]} settled {did}, which may cost less than {reserved}")


def _counts_for_a_member(charge: Charge, level: Level, name: str) -> bool:
    """Whether a charge that hides the member is part of what stands at this level, on whatever data set."""
    return level is Level.DATASET or charge.counts_at(level, name)


def caps_of(charges: Iterable[Charge], level: Level, name: str) -> tuple[Limit, ...]:
    """Return what holds these charges at one level: of each federation among them, what its policy said last.

    What was promised of a data set to whoever hides the member was promised of the member.
    """
    latest: dict[str, Limit] = {}
    for charge in charges:
        of_member = level is Level.DATASET and charge.event.unit is Unit.CLIENT
        latest.update({cap.by: cap for cap in charge.caps if cap.level is level and (of_member or cap.name == name)})
    return tuple(latest[by] for by in sorted(latest))


def bound_of(charges: Iterable[Charge], level: Level, name: str, *more: Event) -> Accountant:
    """Return what turns these charges, and more events, into an epsilon at this level.

    Privacy loss distributions, where all run one mechanism, so that nothing but their number can depend on a result,
    and no policy asked for the filter; once held by the filter, an account stays with it.
    """
    counted = tuple(charges)
    mechanisms = {replace(event, steps=1) for event in (*(charge.event for charge in counted), *more)}
    asked = any(
        (cap.level, cap.name, cap.bound) == (level, name, Accountant.FILTER) for each in counted for cap in each.caps
    )
    hides_members = any(each.unit is Unit.CLIENT for each in mechanisms)  # their price is a filter of its own
    return Accountant.FILTER if asked or hides_members or len(mechanisms) > 1 else Accountant.PLD


def in_order(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same events in one fixed order, so that their cost is the same number however they came.

    Equal mechanisms are not put together: an accountant's last digits depend on how often it composes, and whoever
    checks the ledger composes what stands in it, entry by entry.
    """
    return tuple(sorted(events, key=_place))


def _place(event: Event) -> tuple[object, ...]:
    return (type(event).__name__, *(getattr(event, field.name) for field in fields(event)))
