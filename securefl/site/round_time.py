"""How long a round may take at a site, by its own clock: what a plan says of its time, nobody here relies on.

A round begins when it is reserved. That time stands in the site's own ledger, so a process that starts again counts
from the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from securefl.errors import Unsafe

if TYPE_CHECKING:
    import sqlalchemy as sa

    from securefl.home.home import Home
    from securefl.terms import RunId

RULE = "protocol.late"


def check(home: Home, conn: sa.Connection, run: RunId, most: int | None) -> None:
    """Check that the round of this run that was reserved last has taken no more than ``most`` seconds.

    Raises:
        Unsafe: it has.
    """
    began = home.reserved(conn, run)
    took = 0 if began is None else home.clock() - began
    if most is not None and took > most:
        raise Unsafe(f"{took} s in one round, and this site lets it take {most} s", RULE)


def late(home: Home, run: RunId, most: int | None) -> Callable[[], bool]:
    """Return what says whether that round has no more time here."""
    with home.transaction() as conn:
        began = home.reserved(conn, run)
    return lambda: most is not None and began is not None and home.clock() - began > most
