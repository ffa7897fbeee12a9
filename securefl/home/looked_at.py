"""A home's account, looked at: nothing is made, written, settled or locked there.

A run opens a home, which takes its turn, signs heads and may end an exchange of keys. Who only wants to know what is
left reads the ledger's file as it stands, and holds it against the head that the home keeps.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa

from securefl import key_files
from securefl.errors import OperatorFault
from securefl.home import identity
from securefl.ledger import anchor, databases
from securefl.ledger.verified import Verified
from securefl.privacy.account import Account

ELSEWHERE = "the ledger is in a PostgreSQL database, and nothing is opened there to look at it"


def account_at(home: Path) -> Account:
    """What a home has promised and spent, by its verified ledger; nothing where no run has begun.

    Raises:
        OperatorFault: the ledger is not a file of the home, or cannot be read.
        Tampered: it is not what the home signed.
    """
    kept = anchor.read(home) if identity.is_made(home) else None
    if kept is None:
        return Account()
    if databases.server_of(home) is not None:
        remedy = "see what was spent with `securefl budget show`, on a ledger that `securefl ledger export` wrote"
        raise OperatorFault(ELSEWHERE, remedy, str(home))
    file = home / databases.LOCAL
    own = key_files.load(identity.place(home))
    verified = Verified(own.public, str(file))
    verified.keys = (own.public, *(each.public for each in own.former[:1]))  # an exchange of keys may be under way
    engine = sa.create_engine("sqlite://", creator=lambda: sqlite3.connect(f"file:{file}?mode=ro", uri=True))
    try:
        with engine.connect() as conn:
            return Account.of(leaf.entry for leaf, _ in verified.read(conn, kept))
    except sa.exc.DBAPIError as fault:
        raise OperatorFault(f"cannot be read: {fault.orig}", "let this user read the home", str(file)) from fault
    finally:
        engine.dispose()
