"""Whoever administers a site's database, or is another user of its machine, reads secrets or takes charges out."""

from __future__ import annotations

import atexit
import os
import random
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path

import sqlalchemy as sa

from audits.budget import contention, site
from audits.protection.attempt import Attempt, Outcome
from securefl import wire
from securefl.errors import OperatorFault, Tampered
from securefl.home.home import Home
from securefl.ledger import databases
from securefl.ledger.databases import Place
from securefl.protocol import member_state
from securefl.terms import Entry, Hash, Leaf, MemberId, Refused, ReservationReleased, RunId, Scheme
from tests.support import worlds

LIMIT = 3  # plans in the budget
Row = tuple[int, bytes]


class Administrator:
    """May read and write every row of the store, and has copies of what stood there; has no file of the home."""

    def __init__(self, home: Home, place: Place) -> None:
        self.rand = random.Random(bytes(home.identity.public))  # noqa: S311 - a trial must repeat
        self.engine = databases.engine_at(place)
        self.copies: list[tuple[list[Row], bytes]] = []

    def copy(self) -> None:
        """Keep all leaves and the head, as they stand."""
        with self.engine.begin() as conn:
            rows = [(row.position, bytes(row.leaf)) for row in conn.execute(sa.text("SELECT * FROM leaves"))]
            head = conn.execute(sa.text("SELECT signed FROM head")).scalar_one_or_none()
        if head is not None:
            self.copies.append((sorted(rows), bytes(head)))

    def put(self, rows: list[Row], head: bytes | None = None) -> None:
        """Let these be the leaves, and this the head."""
        with self.engine.begin() as conn:
            conn.execute(sa.text("DELETE FROM leaves"))
            for position, leaf in rows:
                values = {"position": position, "leaf": leaf}
                conn.execute(sa.text("INSERT INTO leaves (position, leaf) VALUES (:position, :leaf)"), values)
            if head is not None:
                conn.execute(sa.text("UPDATE head SET signed = :signed"), {"signed": head})


def relabel(admin: Administrator) -> None:
    """Write other entries over those that charge."""
    rows, _ = admin.copies[-1]
    other = wire.encode(site_leaf(Refused(RunId(bytes(16)), 1, "plan", ())))
    victim = admin.rand.randrange(len(rows))
    admin.put([(position, other if position >= victim else leaf) for position, leaf in rows])


def free(admin: Administrator) -> None:
    """Add an entry that gives a charge back."""
    rows, _ = admin.copies[-1]
    admin.put([*rows, (len(rows), wire.encode(site_leaf(ReservationReleased(Hash(bytes(32)), "of no use"))))])


def delete_middle(admin: Administrator) -> None:
    """Delete one entry."""
    rows, _ = admin.copies[-1]
    victim = admin.rand.randrange(len(rows))
    admin.put([row for row in rows if row[0] != victim])


def close_the_gap(admin: Administrator) -> None:
    """Delete one entry and move the others down."""
    rows, _ = admin.copies[-1]
    victim = admin.rand.randrange(len(rows))
    kept = [leaf for position, leaf in rows if position != victim]
    admin.put(list(enumerate(kept)))


def swap(admin: Administrator) -> None:
    """Let two entries stand in each other's place, or one at the end."""
    rows, _ = admin.copies[-1]
    leaves = [leaf for _, leaf in rows]
    victim = admin.rand.randrange(len(leaves))
    leaves.append(leaves.pop(victim))
    admin.put(list(enumerate(leaves, start=0 if len(leaves) > 1 else 1)))


def older(admin: Administrator) -> None:
    """Put an older state of the whole store back, under the head that was signed for it."""
    rows, head = admin.rand.choice(admin.copies[:-1] or admin.copies)
    admin.put(rows, head)


def older_head(admin: Administrator) -> None:
    """Put an older head back and leave the entries."""
    rows, _ = admin.copies[-1]
    admin.put(rows, admin.copies[0][1])


def head_gone(admin: Administrator) -> None:
    """Leave nothing at all, as before the first entry."""
    with admin.engine.begin() as conn:
        conn.execute(sa.text("DELETE FROM leaves"))
        conn.execute(sa.text("DELETE FROM head"))


TRICKS = (relabel, free, delete_middle, close_the_gap, swap, older, older_head, head_gone)


def site_leaf(entry: Entry) -> Leaf:
    """An entry as the site would have written it."""
    return Leaf(site.NOW, entry)


def _spend(folder: Path, number: int, tricks: tuple[Callable[[Administrator], None], ...], *, restart: bool) -> Outcome:
    """Ask for plans, with a trick after each grant; more grants than the budget has is what the attack is for."""
    rand = random.Random(number)  # noqa: S311 - a trial must repeat
    home, policy, plan = site.home(folder), site.policy(LIMIT), contention._plan()  # noqa: SLF001
    admin = Administrator(home, databases.place_of(folder, site.OWNER, home.identity))
    trick, after, granted, stopped = rand.choice(tricks), rand.randint(1, LIMIT), 0, "budget"
    try:
        for ask in range(2 * LIMIT):
            run = RunId(bytes(8) + ask.to_bytes(8, "big"))
            granted += contention._reserve(home, policy, replace(plan, run=run))  # noqa: SLF001
            admin.copy()
            if granted >= after and (len(admin.copies) > 1 or trick is head_gone):
                trick(admin)
                if restart:
                    home.engine.dispose()
                    home = site.home(folder)
    except Tampered:
        stopped = "Tampered"
    finally:
        admin.engine.dispose()
        home.engine.dispose()
    return Outcome(granted > LIMIT, stopped)


def live(number: int, folder: Path) -> Outcome:
    """Change the store between two decisions of one process."""
    return _spend(folder / "home", number, TRICKS, restart=False)


def restarted(number: int, folder: Path) -> Outcome:
    """Change the store while the site's process is not running."""
    return _spend(folder / "home", number, TRICKS, restart=True)


@cache
def _server() -> object:
    from tests.support import postgres  # noqa: PLC0415

    stack = ExitStack()
    atexit.register(stack.close)
    return stack.enter_context(postgres.running(postgres.NOT_DURABLE))


def postgres(number: int, folder: Path) -> Outcome:
    """The same in a PostgreSQL that somebody else administers."""
    from tests.support import postgres as server  # noqa: PLC0415

    server.write_url(folder / "home", _server().database())  # type: ignore[attr-defined]
    return _spend(folder / "home", number, TRICKS, restart=number % 2 == 1)


def _states(
    number: int, folder: Path, after: Callable[[Home, bytes], object] = lambda *_: None
) -> tuple[Home, list[tuple[RunId, bytes, object]], list[bytes]]:
    """A member that went through some steps of two runs: every state of its machines, as its database had them."""
    world = worlds.World(names=(site.OWNER, "b", "c"), scheme=Scheme.CLEAR if number % 2 else Scheme.MASKING)
    home = site.home(folder)
    seen: list[tuple[RunId, bytes, object]] = []
    secrets: list[bytes] = []
    for run in (RunId(bytes([1] * 16)), RunId(bytes([2] * 16))):
        world = worlds.World(names=(site.OWNER, "b", "c"), scheme=world.scheme)
        keep = world.keep

        def kept(
            party: worlds.Party, moved: member_state.Step, run: RunId = run, keep: Callable[..., None] = keep
        ) -> None:
            keep(party, moved)
            if party.name != site.OWNER:
                return
            told = [_of_run(entry, run) for entry in moved.entries]
            with home.transaction() as conn:
                if told:
                    home.commit(conn, run, told, moved.state)
                rows = conn.execute(sa.text("SELECT run, state FROM machines")).all()
            seen.extend((run, bytes(row.state), moved.state) for row in rows if bytes(row.run) == run)
            after(home, next(bytes(row.state) for row in rows if bytes(row.run) == run))
            seat = getattr(moved.state, "seat", None)
            secrets.extend(each for each in (seat.box, seat.enrolment) if each) if seat else None

        world.keep = kept  # type: ignore[method-assign, assignment]
        world.play()
    return home, seen, secrets


def _of_run(entry: object, run: RunId) -> object:
    """The same entry, of another run."""
    if hasattr(entry, "receipt"):
        return replace(entry, receipt=replace(entry.receipt, run=run))  # type: ignore[type-var]
    if hasattr(entry, "run"):
        return replace(entry, run=run)  # type: ignore[type-var]
    if hasattr(entry, "plan") and hasattr(entry.plan, "run"):
        return replace(entry, plan=replace(entry.plan, run=run))  # type: ignore[type-var]
    return Refused(run, 0, "a step", ())


def states(number: int, folder: Path) -> Outcome:
    """Put another state of a machine into its place: an older one, one of another run, an altered one, or none."""
    rand = random.Random(number)  # noqa: S311 - a trial must repeat
    home, seen, _ = _states(number, folder / "home")
    run = rand.choice((seen[0][0], seen[-1][0]))
    last = [(state, what) for of, state, what in seen if of == run][-1]
    older_ones = [state for of, state, what in seen if of == run and wire.encode(what) != wire.encode(last[1])]
    altered = bytearray(last[0])
    altered[rand.randrange(len(altered))] ^= 1 << rand.randrange(8)
    put = rand.choice(
        (rand.choice(older_ones), rand.choice([s for of, s, _ in seen if of != run]), bytes(altered), None)
    )
    with home.transaction() as conn:
        where = {"run": bytes(run), "state": put}
        statement = (
            "DELETE FROM machines WHERE run = :run"
            if put is None
            else "UPDATE machines SET state = :state WHERE run = :run"
        )
        conn.execute(sa.text(statement), where if put is not None else {"run": bytes(run)})
    home.engine.dispose()
    home = site.home(folder / "home")
    try:
        with home.transaction() as conn:
            found = home.saved(conn, run, member_state.State)
    except Tampered:
        return Outcome(succeeded=False, stopped_by="Tampered")
    finally:
        home.engine.dispose()
    return Outcome(wire.encode(found) != wire.encode(last[1]), "nothing")


def secrets(number: int, folder: Path) -> Outcome:
    """Read the secrets of a running session out of the database's files."""
    home, _, secret = _states(2 * number, folder / "home")
    files = b"".join(path.read_bytes() for path in sorted((folder / "home").glob("ledger.db*")))
    home.engine.dispose()
    assert secret, "a session has secrets"
    return Outcome(any(each[:16] in files for each in secret), "sealed")


def _open_to_others(folder: Path, rand: random.Random) -> Path:
    """A home that was made whole, and one thing of it that was opened to others afterwards."""
    home = folder / "home"
    Home.at(home, MemberId("north"), lambda: site.NOW).engine.dispose()
    for name in ("ledger.db-wal", "ledger.db-shm", "ledger.db-turn"):
        (home / name).touch(mode=0o600)
    victim = rand.choice([home, *sorted(path for path in home.iterdir() if path.name != "ledger.head-turn")])
    if victim != home and rand.random() < 1 / 4:
        moved = folder / "elsewhere"
        victim.rename(moved)
        victim.symlink_to(moved)
    else:
        bit = rand.choice((0o040, 0o020, 0o004, 0o002, 0o010, 0o001))
        victim.chmod((0o700 if victim == home else 0o600) | bit)
    return home


def opened_to_others(number: int, folder: Path) -> Outcome:
    """Work on in a home, database or key that other users may read, write or have put there."""
    home = _open_to_others(folder, random.Random(number))  # noqa: S311 - a trial must repeat
    try:
        Home.at(home, MemberId("north"), lambda: site.NOW).engine.dispose()
    except OperatorFault as fault:
        return Outcome("run: chmod" not in fault.remedy and "run: rm" not in fault.remedy, "OperatorFault")
    return Outcome(succeeded=True, stopped_by="nothing")


def umask(number: int, folder: Path) -> Outcome:
    """Make a home for a site whose umask lets everybody read and write."""
    before = os.umask((0, 0o002, 0o022)[number % 3])
    try:
        home = Home.at(folder / "sites" / "north", MemberId("north"), lambda: site.NOW)
        with home.transaction() as conn:
            home.record(conn, [Refused(RunId(bytes(16)), 1, "plan", ())])
            while_open = {path: path.stat().st_mode & 0o077 for path in (folder / "sites").rglob("*")}
        home.engine.dispose()
    finally:
        os.umask(before)
    open_to_others = [path for path, mode in while_open.items() if mode]
    return Outcome(bool(open_to_others), "0700 and 0600")


ATTEMPTS = (
    Attempt("The database's administrator takes charges out while the site runs", live),
    Attempt("The database's administrator takes charges out while the site rests", restarted),
    Attempt("The administrator of a PostgreSQL takes charges out", postgres),
    Attempt("The database's administrator puts another state of a machine in place", states),
    Attempt("The database's administrator reads a session's secrets", secrets),
    Attempt("A home is used that others may read, write or have linked", opened_to_others),
    Attempt("A home is made under a umask that lets everybody in", umask),
)
