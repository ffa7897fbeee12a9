"""Which version of the tables a database holds; an older one becomes today's in the transaction that opens it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from securefl.errors import OperatorFault

if TYPE_CHECKING:
    from alembic.script import ScriptDirectory

VERSIONS = ("0001", "0002", "0003", "0004")  # oldest first; each is a file in migrations/versions
TABLE = "securefl_version"
FOLDER = Path(__file__).parent / "migrations"
ONE_AT_A_TIME = threading.Lock()  # alembic keeps what it works on in a module's globals


def migrate(conn: sa.Connection, where: str) -> None:
    """The tables are today's; a database that had today's is not written to.

    Raises:
        OperatorFault: the database is of a newer version, or another program's.
    """
    found = _found(conn, where)
    if found == VERSIONS[-1]:
        return
    if found and found not in VERSIONS:
        what = f"a store of version {found}; this program knows {VERSIONS[-1]}"
        raise OperatorFault(what, "update securefl", where)
    with ONE_AT_A_TIME:
        script = _script(FOLDER)
        if found:
            _run(conn, script, lambda at, _: script._stamp_revs(found, at))  # noqa: SLF001 - so its guide has it
        _run(conn, script, lambda at, _: script._upgrade_revs("head", at))  # noqa: SLF001 - as above


@cache
def _script(folder: Path) -> ScriptDirectory:
    """The steps from each version to the next; they are read once in a process."""
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - not needed by a store that is today's

    return ScriptDirectory(str(folder))


def _run(conn: sa.Connection, script: ScriptDirectory, steps: Callable[[Any, Any], Any]) -> None:
    """Take these steps on the connection, and inside the transaction, that opens the store."""
    from alembic.config import Config  # noqa: PLC0415 - as above
    from alembic.runtime.environment import EnvironmentContext  # noqa: PLC0415

    with EnvironmentContext(Config(), script, fn=steps) as environment:
        environment.configure(connection=conn, version_table=TABLE)
        environment.run_migrations()


def _found(conn: sa.Connection, where: str) -> str:
    """The version of the tables that are there; empty if there are none."""
    tables = sa.inspect(conn).get_table_names()
    if TABLE in tables:
        version: str = conn.execute(sa.text(f"SELECT version_num FROM {TABLE}")).scalar_one()  # noqa: S608 - a constant
        return version
    if not tables:
        return ""
    if conn.dialect.name == "sqlite":  # before there were migrations, the file's own number said it
        number = conn.exec_driver_sql("PRAGMA user_version").scalar_one()
        if number == 1:
            return VERSIONS[0]
    raise OperatorFault("another program's database", "choose a place of its own for the ledger", where)
