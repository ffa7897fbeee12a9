"""What a site has promised and spent: a fold over its ledger, so the two cannot differ.

A charge is reserved before training and settled with what really ran. It never gets cheaper than what ran, and a plan is
charged once, whatever happens: a freed plan cannot be reserved again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from fractions import Fraction

from securefl import wire
from securefl.errors import Fault
from securefl.terms import Entry, Event, Freed, Hash, Level, MicroEpsilon, PoissonGaussian, Reserved, RunId, Settled


class AccountFault(Fault):
    """Entries that no honest site writes: a second reservation of one plan, a settlement of more than was reserved."""

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


@dataclass(frozen=True, slots=True)
class Account:
    """All charges of one site, in the order they were made."""

    charges: tuple[Charge, ...] = ()

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> Account:
        """The account these entries amount to.

        Raises:
            AccountFault: they do not fit together.
        """
        account = cls()
        for entry in entries:
            account = account.apply(entry)
        return account

    def apply(self, entry: Entry) -> Account:
        """The account after one more entry; most entries change nothing.

        Raises:
            AccountFault: the entry does not fit this account.
        """
        if isinstance(entry, Reserved):
            plan = wire.plan_hash(entry.plan)
            if self.knows(plan):
                raise AccountFault(f"plan {plan.hex()[:12]} is reserved twice")
            charge = Charge(
                plan, entry.plan.federation, entry.dataset, entry.plan.run, entry.plan.round, entry.plan.learning.event,
                entry.price.round, Standing.RESERVED,
            )  # fmt: skip
            return Account((*self.charges, charge))
        if isinstance(entry, Settled):
            charge = self._reserved(entry.plan)
            did, reserved = entry.did, charge.event
            if (did.sampling_rate, did.noise_multiplier) != (reserved.sampling_rate, reserved.noise_multiplier):
                raise AccountFault(f"plan {entry.plan.hex()[:12]} ran another mechanism than was reserved")
            if did.steps > reserved.steps:
                raise AccountFault(f"plan {entry.plan.hex()[:12]} ran {did.steps} steps, {reserved.steps} were reserved")
            return self._with(replace(charge, event=did, standing=Standing.SETTLED))
        if isinstance(entry, Freed):
            return self._with(replace(self._reserved(entry.plan), standing=Standing.FREED))
        return self

    def knows(self, plan: Hash) -> bool:
        """Whether this plan was ever reserved here."""
        return any(charge.plan == plan for charge in self.charges)

    def standing(self, level: Level, name: str) -> tuple[Charge, ...]:
        """The charges that count at this level: reserved and settled."""
        key = {Level.DATASET: "dataset", Level.FEDERATION: "federation"}[level]
        return tuple(
            charge
            for charge in self.charges
            if getattr(charge, key) == name and charge.standing is not Standing.FREED
        )

    def events(self, level: Level, name: str) -> tuple[Event, ...]:
        """What counts at this level, composed: the same for every order of charges."""
        return compose(charge.event for charge in self.standing(level, name))

    @property
    def digest(self) -> Hash:
        """A name for what counts; a price is good for one name. The order of charges does not matter."""
        return wire.digest("account", tuple(sorted(self.charges, key=lambda charge: charge.plan)))

    def _reserved(self, plan: Hash) -> Charge:
        for charge in self.charges:
            if charge.plan == plan and charge.standing is Standing.RESERVED:
                return charge
        raise AccountFault(f"plan {plan.hex()[:12]} has no reservation to settle or free")

    def _with(self, changed: Charge) -> Account:
        return Account(tuple(changed if charge.plan == changed.plan else charge for charge in self.charges))


def compose(events: Iterable[Event]) -> tuple[Event, ...]:
    """The same events with equal mechanisms put together, in one fixed order."""
    steps: dict[tuple[Fraction, Fraction], int] = {}
    for event in events:
        key = (event.sampling_rate, event.noise_multiplier)
        steps[key] = steps.get(key, 0) + event.steps
    return tuple(PoissonGaussian(rate, noise, count) for (rate, noise), count in sorted(steps.items()))
