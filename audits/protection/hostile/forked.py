"""Whoever administers a site's database shows two of its processes two copies: each decides without the other."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import sqlalchemy as sa

from audits.budget import contention, site
from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.errors import Fault
from securefl.home.home import Home
from securefl.ledger import databases
from securefl.protection.summation import Summation
from securefl.protocol import custodian as u
from securefl.protocol import messages as m
from securefl.site.agent import CustodianAgent
from securefl.terms import MemberId, Refused, RunId, Scheme
from tests.support import worlds

HELD_S = 0.5  # for which an answer to one process is held back, while the other could go on


class _Enough(Exception):
    """What was asked was asked."""


def _shown_a_copy(home: Home, folder: Path) -> Home:
    """The process of this home, as it goes on once its database is a copy of what stands there now."""
    folder.mkdir(mode=0o700)
    copy = folder / "ledger.db"
    with closing(sqlite3.connect(home.path / "ledger.db")) as real, closing(sqlite3.connect(copy)) as made:
        real.backup(made)
    copy.chmod(0o600)
    home.engine.dispose()
    return replace(home, engine=databases.engine_at(copy))


def _answered_late(late: Home, moment: str, first: Callable[[], object], second: Callable[[], object]) -> None:
    """Let ``first`` run on the late home; hold its database's answer back at this moment, while ``second`` goes on."""
    other = threading.Thread(target=second)

    def held(*_: object) -> None:
        if not other.ident:
            other.start()
            other.join(HELD_S)

    if moment == "commit":
        sa.event.listen(late.engine, "commit", held)
    else:  # committed, and nothing of it told to the home yet
        sa.event.listen(late.engine, "checkin", held)
    first()
    other.join()


def member(number: int, folder: Path) -> Outcome:
    """Reserve what is left of a budget once in each of two processes."""
    drawn = random.Random(number)  # noqa: S311 - a trial must repeat
    home, policy, plan = site.home(folder / "home"), site.policy(1), contention._plan()  # noqa: SLF001
    with home.transaction() as conn:
        home.record(conn, [Refused(RunId(bytes(16)), each, "plan", ()) for each in range(drawn.randint(1, 3))])
    homes = [home, _shown_a_copy(site.home(folder / "home"), folder / "shown")]
    drawn.shuffle(homes)
    granted, stopped = list[bool](), set[str]()

    def ask(at: int) -> None:
        try:
            run = RunId(bytes(15) + bytes([at]))
            granted.append(contention._reserve(homes[at], policy, replace(plan, run=run)))  # noqa: SLF001
        except Fault as fault:
            stopped.add(type(fault).__name__)

    _answered_late(homes[0], ("commit", "checkin")[number % 2], lambda: ask(0), lambda: ask(1))
    for each in homes:
        each.engine.dispose()
    return Outcome(sum(granted) > 1, ", ".join(sorted(stopped)))


def custodian(number: int, folder: Path) -> Outcome:
    """Have two sums of one round opened: the second lacks one member, whose update is the difference."""
    world = worlds.World(scheme=Scheme.CKKS, rounds=1)
    me = MemberId("custodian")
    key = folder / "home" / "identity.key"
    key.parent.mkdir(mode=0o700)
    key.touch(mode=0o600)
    key.write_bytes(hashlib.sha256(b"identity custodian").digest())
    charter = world.parties[me].state.charter  # type: ignore[attr-defined]

    def process(home: Home) -> CustodianAgent:
        return CustodianAgent(home, charter, u.Ports(home.identity, world.holder, world.min_cohort), world.rand)

    home, second = (Home.at(key.parent, me, lambda: site.NOW) for _ in range(2))
    honest, opened, stopped = world.handle, list[bytes](), set[str]()

    def attempt(agent: CustodianAgent, data: bytes) -> None:
        try:
            opened.append(agent.handle(data))
        except Fault as fault:
            stopped.add(type(fault).__name__)

    def handle(name: str, data: bytes) -> bytes:
        if name != me:
            return honest(name, data)
        frame: m.Frame = wire.decode(data, m.Frame)
        receipt = frame.envelope.receipt
        if receipt.kind != "Ask":
            return process(home).handle(data)
        asked = wire.decode(wire.decode(frame.envelope.body, m.Ask).question, Summation)
        fewer = m.Ask(receipt.round, wire.encode(Summation(asked.plan, asked.inputs[:-1])))
        less = wire.encode(replace(frame, envelope=worlds.resigned(receipt, fewer, "coordinator").envelope))
        homes = [home, _shown_a_copy(second, folder / "shown")]
        agents = [process(each) for each in (homes if number % 4 < 2 else homes[::-1])]
        moment = ("commit", "checkin")[number % 2]
        late = agents[0]
        _answered_late(late.home, moment, lambda: attempt(late, data), lambda: attempt(agents[1], less))
        for each in homes:
            each.engine.dispose()
        raise _Enough

    world.handle = handle  # type: ignore[method-assign]
    with suppress(_Enough):
        world.play()
    return Outcome(len(opened) > 1, ", ".join(sorted(stopped)))


ATTEMPTS = (
    Attempt("A database's administrator shows two processes of a member two copies", member),
    Attempt("A database's administrator shows two processes of a custodian two copies", custodian),
)
