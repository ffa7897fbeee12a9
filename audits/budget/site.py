"""One site under attack: the real agent, home and policy; only price and training cost nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from securefl import wire
from securefl.home.home import Home
from securefl.policy import load as policies
from securefl.privacy.account import Account
from securefl.protection import schemes
from securefl.protocol import member_state
from securefl.seams import Own
from securefl.site.agent import MemberAgent
from securefl.terms import Hash, Level, MemberId, MicroEpsilon, Plan, Price, Scheme, Update
from tests.support import worlds

OWNER = MemberId("north")
SCHEME = Scheme.CLEAR  # sealing is not what is tested here
COST = 100_000  # of any plan, in millionths: what a plan costs is not what is tested here
NOW = 1_780_000_000
TEXT = """
securefl_policy: 1
federation: f
version: 1
valid: {{from: 2026-01-01, until: 2099-12-31}}
budget: {{unit: record, neighbours: add-or-remove-one, epsilon: {limit}, delta: 1/100000, per_round: {{epsilon: 1}}, per_dataset: {{epsilon: {limit}}}, overlap: 1}}
training: {{mechanisms: [poisson-gaussian], clip: {{at_most: 1, norm: l2}}, noise_multiplier: {{at_least: 1/2}}, modules: [query], rank: {{at_most: 8}}, base_models: [any], learning_rate: {{at_least: 1/1000, at_most: 1024}}}}
protection: {{schemes: [clear], min_cohort: 3, threshold: {{at_least: 1}}, colluding: 1, grid: {{fraction_bits: {{at_least: 0, at_most: 40}}, value_bits: {{at_most: 64}}}}}}
release: {{fields: [weights], to: members}}
context: {{purposes: [test], regions: [here]}}
parent: null
approvals: {{required: 0}}
"""  # noqa: E501 - one line a part


def policy(plans: int) -> policies.Policy:
    """A policy whose budget is exactly this many plans; it goes by the name the test federation knows."""
    made = policies.parse(TEXT.format(limit=f"{plans * COST}/1000000").encode(), "policy")
    return replace(made, text=worlds.POLICY, hash=worlds.POLICY_HASH)


def price(plan: Plan, account: Account, held: policies.Policy) -> Price:
    """As many times COST as there are plans on the account, and one more."""
    named = ((Level.DATASET, f"{OWNER}-data"), (Level.FEDERATION, plan.federation), (Level.RUN, plan.run.hex()))
    after = {level: MicroEpsilon((len(account.standing(level, name)) + 1) * COST) for level, name in named}
    return Price(wire.plan_hash(plan), account.digest, MicroEpsilon(COST), after, {}, held.caps(named[0][1], plan.run))


@dataclass(frozen=True, slots=True)
class Trainer:
    """Does nothing, but writes down that it did: outside the store, so that a rollback does not undo it."""

    diary: Path
    hook: Callable[[str], object]

    def admit(self, plan: Plan, base: bytes) -> None:
        """Any plan can be trained here."""

    def train(self, plan: Plan, base: bytes, own: Own) -> tuple[Update, Own]:
        """A vector that is the same each time."""
        del base
        with self.diary.open("ab", buffering=0) as file:
            file.write(wire.plan_hash(plan))
        self.hook("in training")
        return Update(np.zeros(plan.dimension), plan.learning.event), own


def home(folder: Path) -> Home:
    """The site's home, under the key that the test federation knows."""
    key = folder / "identity.key"
    if not key.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key.touch(mode=0o600)
        key.write_bytes(hashlib.sha256(b"identity " + OWNER.encode()).digest())
    return Home.at(folder, OWNER, lambda: NOW)


def agent(folder: Path, plans: int, hook: Callable[[str], object]) -> MemberAgent:
    """The member's agent, as a fresh process opens it."""
    seats = tuple(worlds.seat(name) for name in (OWNER, "b", "c"))
    charter = member_state.SiteConfig(
        OWNER,
        "f",
        worlds.POLICY_HASH,
        worlds.POLICY,
        f"{OWNER}-data",
        worlds.seat("coordinator"),
        None,
        seats,
        {},
        worlds.MODEL,
    )

    def priced(plan: Plan, account: Account) -> Price:
        hook("to be priced")
        return price(plan, account, held)

    opened, held = home(folder), policy(plans)
    ports = member_state.Ports(opened.identity, schemes.member_half)
    return MemberAgent(opened, charter, held, ports, Trainer(folder / "diary", hook), priced, os.urandom)


@dataclass(frozen=True, slots=True)
class Replayed:
    """What the leaves of a ledger say, counted the plain way and without the account's code."""

    reserved: tuple[Hash, ...]
    settled: tuple[Hash, ...]
    freed: tuple[Hash, ...]
    submitted: tuple[Hash, ...]

    @property
    def spent(self) -> int:
        """What stands against the budget, in millionths."""
        return (len(self.reserved) - len(self.freed)) * COST


def replay(leaves: Iterator[Any]) -> Replayed:
    """Each list in the ledger's order, doubles included."""
    found: dict[str, list[Hash]] = {"Reserved": [], "Settled": [], "ReservationReleased": [], "MessageSent": []}
    for leaf in leaves:
        entry, kind = leaf.entry, type(leaf.entry).__name__
        if kind == "Reserved":
            found[kind].append(wire.plan_hash(entry.plan))
        elif kind in {"Settled", "ReservationReleased"}:
            found[kind].append(entry.plan)
        elif kind == "MessageSent" and entry.receipt.kind == "Submitted":
            found[kind].append(entry.receipt.plan)
    return Replayed(*(tuple(each) for each in found.values()))


@contextlib.contextmanager
def databases() -> Iterator[dict[str, Callable[[Path], None]]]:
    """Yield what makes a new home one of SQLite or of a durable PostgreSQL."""
    from tests.support import postgres  # noqa: PLC0415 - the server's programs are needed only here

    with postgres.running() as server:
        yield {
            "sqlite": lambda folder: folder.mkdir(parents=True, mode=0o700),
            "postgresql": lambda folder: postgres.write_url(folder, server.database()),
        }
