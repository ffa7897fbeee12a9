"""A home is put back to an earlier copy of itself, so that what it spent, opened or promised since is forgotten."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from audits.protection.attempt import Attempt, Outcome
from securefl.errors import Fault
from securefl.ledger import anchor, store
from securefl.protocol import coordinator_state
from securefl.terms import Entry, Refused, RunId, Scheme, SumOpened
from tests.support import nested

NAMES = ("ada", "bell", "cole", "dean")
FILES = ("ledger.db", "ledger.db-wal", "ledger.db-shm", "ledger.db-turn")
ROUNDS = 3
SET_BACK = ("protocol.own-ledger-set-back", "protocol.ledger-set-back")


class Stopped(Exception):
    """Every process of the federation was killed."""


class Stage:
    """A federation of three to four sites on disk, whose homes are copied at some moments and put back at others."""

    def __init__(self, number: int, folder: Path, scheme: Scheme = Scheme.MASKING) -> None:
        self.drawn = random.Random(number)  # noqa: S311 - a trial must repeat
        self.folder, self.scheme = folder, scheme
        self.names = NAMES[: self.drawn.choice((3, 4))]
        self.world = self.opened()

    def opened(self) -> nested.World:
        """New processes on the same homes."""
        tree = dict.fromkeys(self.names)
        return nested.World(self.folder / "homes", tree, (self.scheme,), rounds=ROUNDS)

    def play(self, number: int, at: Callable[[int], object] = lambda _: None) -> coordinator_state.Ended | None:
        """One run, from its start or from where it stood; None if it was killed."""
        try:
            return self.world.play(np.zeros(nested.LAYOUT.entries), number.to_bytes(16, "big"), at)
        except Stopped:
            return None
        finally:
            for home in self.world.homes.values():
                home.engine.dispose()

    def copy(self, name: str) -> None:
        """Back this home up, as it is now."""
        shutil.rmtree(self.folder / "backup", ignore_errors=True)
        shutil.copytree(self.folder / "homes" / name, self.folder / "backup")

    def put_back(self, name: str) -> None:
        """Restore the whole home from its copy."""
        shutil.rmtree(self.folder / "homes" / name)
        shutil.copytree(self.folder / "backup", self.folder / "homes" / name)

    def again(self, victim: str, run: int) -> Outcome:
        """Start everything anew and see whether the victim takes part once more."""
        self.world = self.opened()
        try:
            self.play(run)
            refused = self.refusals(("coordinator", *self.names))
        except Fault as fault:
            return Outcome(victim in {name for name, _ in self.world.trained}, type(fault).__name__)
        took_part = victim in {name for name, _ in self.world.trained}
        if victim == "coordinator":
            took_part = bool(self.world.trained)
        return Outcome(took_part, next((rule for rule in SET_BACK if rule in refused), ", ".join(sorted(refused))))

    def grow(self, name: str) -> None:
        """Let this party's ledger become longer than any that was seen of it."""
        home = self.world.home((name,))
        refused = [Refused(RunId(bytes(16)), each, "answer", ()) for each in range(self.drawn.randint(40, 90))]
        with home.transaction() as conn:
            home.record(conn, refused)
        home.engine.dispose()

    def refusals(self, names: tuple[str, ...]) -> set[str]:
        """The rules of every refusal in these ledgers."""
        rules: set[str] = set()
        for name in names:
            rules |= {
                reason.rule for each in self.entries(name) if isinstance(each, Refused) for reason in each.reasons
            }
        return rules

    def entries(self, name: str) -> list[Entry]:
        """What stands in one party's ledger."""
        home = self.world.home((name,))
        with home.transaction() as conn:
            found = [leaf.entry for leaf in store.read(conn, home.identity.public)[1]]
        home.engine.dispose()
        return found


def _killed(stage: Stage, after: int, name: str, copied: int) -> None:
    """Run 1, killed when round ``after`` begins or at its last word; the home was copied when ``copied`` began."""
    if copied == 0:
        for each in dict.fromkeys((*stage.names, "coordinator", name)):
            stage.world.home((each,))
        stage.copy(name)

    def at(round_: int) -> None:
        if round_ == copied:
            stage.copy(name)
        if round_ == after:
            raise Stopped

    stage.play(1, at)


def before_goodbye(number: int, folder: Path) -> Outcome:
    """Put a member's home back to before some round, after later rounds were seen and nobody said goodbye."""
    stage = Stage(number, folder)
    victim = stage.drawn.choice(stage.names)
    _killed(stage, stage.drawn.choice((2, 3)), victim, stage.drawn.choice((0, 1)))
    stage.put_back(victim)
    return stage.again(victim, 2)


def after_goodbye(number: int, folder: Path) -> Outcome:
    """Put a member's home back to before a run that finished."""
    stage = Stage(number, folder)
    victim = stage.drawn.choice(stage.names)
    _killed(stage, 0, victim, stage.drawn.choice((0, 1, 2, 3)))
    stage.put_back(victim)
    return stage.again(victim, 2)


def same_run(number: int, folder: Path) -> Outcome:
    """Put a member's home back to before a round that it trained, and go on with the same run."""
    stage = Stage(number, folder)
    victim = stage.drawn.choice(stage.names)
    _killed(stage, 2, victim, 1)
    stage.put_back(victim)
    return stage.again(victim, 1)


def database_deleted(number: int, folder: Path) -> Outcome:
    """Delete a member's database, and in every second trial what the home wrote of it elsewhere."""
    stage = Stage(number, folder)
    victim = stage.drawn.choice(stage.names)
    _killed(stage, stage.drawn.choice((2, 3)), victim, 9)
    for name in (*FILES, *((anchor.NAME,) if number % 2 else ())):
        (folder / "homes" / victim / name).unlink(missing_ok=True)
    return stage.again(victim, 2)


def database_alone(number: int, folder: Path) -> Outcome:
    """Put the database back and leave the rest of the home."""
    stage = Stage(number, folder)
    victim = stage.drawn.choice(stage.names)
    _killed(stage, stage.drawn.choice((2, 3)), victim, stage.drawn.choice((0, 1)))
    for name in FILES:
        (folder / "homes" / victim / name).unlink(missing_ok=True)
        if (folder / "backup" / name).exists():
            shutil.copy(folder / "backup" / name, folder / "homes" / victim / name)
    return stage.again(victim, 2)


def coordinator(number: int, folder: Path) -> Outcome:
    """Put the coordinator's home back, so that it could begin again with members who saw it further."""
    stage = Stage(number, folder)
    _killed(stage, stage.drawn.choice((0, 2, 3)), "coordinator", stage.drawn.choice((0, 1)))
    stage.put_back("coordinator")
    return stage.again("coordinator", 2)


def custodian(number: int, folder: Path, *, grown: bool = False) -> Outcome:
    """Put the custodian's home back to before it opened sums, and let it open others."""
    stage = Stage(number, folder, Scheme.CKKS)
    _killed(stage, stage.drawn.choice((0, 3)), "custodian", stage.drawn.choice((0, 1)))
    stage.put_back("custodian")
    stage.world, run = stage.opened(), 2
    if grown:
        stage.grow("custodian")
    stage.play(run)
    told = stage.entries("custodian")
    more = any(isinstance(entry, SumOpened) and entry.run == run.to_bytes(16, "big") for entry in told)
    rules = stage.refusals(("coordinator", "custodian"))
    return Outcome(more, next((rule for rule in SET_BACK if rule in rules), ", ".join(sorted(rules))))


def grown_again(number: int, folder: Path) -> Outcome:
    """Put a member's home back, and let its ledger grow past what its peers saw before it is shown."""
    stage = Stage(number, folder)
    victim = stage.drawn.choice(stage.names)
    _killed(stage, stage.drawn.choice((2, 3)), victim, stage.drawn.choice((0, 1)))
    stage.put_back(victim)
    stage.world = stage.opened()
    stage.grow(victim)
    return stage.again(victim, 2)


ATTEMPTS = (
    Attempt("A member's home is put back before anybody said goodbye", before_goodbye),
    Attempt("A member's home is put back after a run ended", after_goodbye),
    Attempt("A member's home is put back in the midst of a run", same_run),
    Attempt("A member's database is deleted", database_deleted),
    Attempt("A member's database alone is put back", database_alone),
    Attempt("The coordinator's home is put back", coordinator),
    Attempt("The custodian's home is put back to before it opened a sum", custodian),
    Attempt("The custodian's home is put back and grows past what was seen", partial(custodian, grown=True)),
    Attempt("A member's home is put back and grows past what was seen", grown_again),
)
