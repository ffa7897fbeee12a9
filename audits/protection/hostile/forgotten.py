"""Whoever has old rows of a site's database copies the home later: what a round or run forgot is to stay gone."""

from __future__ import annotations

import hashlib
import random
from contextlib import suppress
from pathlib import Path

import sqlalchemy as sa

from audits.budget import site
from audits.protection.attempt import Attempt, Outcome
from audits.protection.hostile import store
from securefl import keys, wire
from securefl.errors import Forged
from securefl.home.home import MACHINE, Home
from securefl.home.ratchet import KEY
from securefl.protocol import custodian as u
from securefl.protocol import member_state
from securefl.site.agent import CustodianAgent
from securefl.terms import MemberId, RunId, Scheme
from tests.support import worlds


class Thief:
    """Has what a copy of a home holds: its identity, and 32 bytes from anywhere in any of its other files."""

    def __init__(self, home: Home) -> None:
        self.owner, self.identity = home.owner, home.identity
        files = [path for path in home.path.iterdir() if not path.name.startswith("ledger.db") and path.is_file()]
        data = [path.read_bytes() for path in files]
        self.keys = [each[at : at + KEY] for each in data for at in range(0, min(len(each), 4 * KEY), KEY)]

    def opens(self, run: RunId, row: bytes) -> bool:
        """Whether a row that once stood in the database can be read."""
        context = wire.encode((MACHINE, bytes(run), self.owner))
        found = [keys.Secret(each) for each in self.keys if len(each) == KEY]
        states = (keys.derive(self.identity.at_rest(each.raw), "at-rest", context) for each in found)
        for key in (self.identity.at_rest(context), *states):
            with suppress(Forged):
                return bool(keys.open_at_rest(key, context, row))
        return False


def _came_to(opened: bool, last: bool) -> Outcome:  # noqa: FBT001 - two facts
    assert last, "what stands now is read by whoever has the home"
    return Outcome(opened, "another key")


def earlier_round(number: int, folder: Path) -> Outcome:
    """Copy a member's home in the midst of a run, and open the states of steps and rounds before."""
    rows: list[bytes] = []
    copies: list[Thief] = []

    def after(home: Home, row: bytes) -> None:
        rows.extend([row] if row not in rows[-1:] else [])
        copies.append(Thief(home))

    home, seen, _ = store._states(2 * number, folder / "home", after)  # noqa: SLF001 - masking
    home.engine.dispose()
    until = random.Random(number).randrange(len(copies) // 4, len(copies) // 2)  # noqa: S311 - in the first of two runs
    run, stood = seen[until][0], [row for of, row, _ in seen[: until + 1] if of == seen[until][0]]
    thief, newest = copies[until], stood[-1]
    return _came_to(any(thief.opens(run, row) for row in stood if row != newest), thief.opens(run, newest))


def earlier_run(number: int, folder: Path) -> Outcome:
    """Copy a member's home once its runs are over, and open every state that had a secret of a session."""
    home, seen, _ = store._states(2 * number, folder / "home")  # noqa: SLF001 - masking
    home.engine.dispose()
    thief = Thief(home)
    had = [(run, row) for run, row, state in seen if not isinstance(state, member_state.Left | member_state.Idle)]
    return _came_to(any(thief.opens(run, row) for run, row in had), thief.opens(seen[-1][0], seen[-1][1]))


def custodian_home(folder: Path) -> Home:
    """A home of the custodian that a world knows."""
    key = folder / "identity.key"
    folder.mkdir(mode=0o700)
    key.touch(mode=0o600)
    key.write_bytes(hashlib.sha256(b"identity custodian").digest())
    return Home.at(folder, MemberId("custodian"), lambda: site.NOW)


def custodian(number: int, folder: Path) -> Outcome:
    """Copy a custodian's home once a run is over, and find the key that opens its boxes."""
    world = worlds.World(scheme=(Scheme.CKKS, Scheme.BFV)[number % 2], rounds=1 + number % 2)
    me, home = MemberId("custodian"), custodian_home(folder / "home")
    charter = world.parties[me].state.charter  # type: ignore[attr-defined]
    ports = u.Ports(home.identity, world.holder, world.min_cohort)
    agent, honest, rows = CustodianAgent(home, charter, ports, world.rand), world.handle, list[tuple[RunId, bytes]]()

    def handle(name: str, data: bytes) -> bytes:
        if name != me:
            return honest(name, data)
        answer = agent.handle(data)
        with home.transaction() as conn:
            found = conn.execute(sa.text("SELECT run, state FROM machines")).all()
        rows.extend((RunId(bytes(row.run)), bytes(row.state)) for row in found)
        return answer

    world.handle = handle  # type: ignore[method-assign]
    world.play()
    home.engine.dispose()
    thief, newest = Thief(home), rows[-1]
    return _came_to(any(thief.opens(*each) for each in rows if each != newest), thief.opens(*newest))


ATTEMPTS = (
    Attempt("Old rows of a member's database and its home in the midst of a run open earlier rounds", earlier_round),
    Attempt("Old rows of a member's database and its home open a run that is over", earlier_run),
    Attempt("Old rows of a custodian's database and its home open a run that is over", custodian),
)
