"""The tables of a store: what happened, under which head, where each run's machine stands, and what it keeps.

No column says what a leaf is: whoever may write here would decide by it. A leaf is what it decodes to.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()
leaves = sa.Table(
    "leaves",
    metadata,
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("leaf", sa.LargeBinary, nullable=False),
)
heads = sa.Table(
    "head",
    metadata,
    sa.Column("one", sa.Integer, sa.CheckConstraint("one = 1"), primary_key=True, autoincrement=False),
    sa.Column("signed", sa.LargeBinary, nullable=False),
)
machines = sa.Table(
    "machines",
    metadata,
    sa.Column("run", sa.LargeBinary, primary_key=True),
    sa.Column("state", sa.LargeBinary, nullable=False),  # sealed under the home's key
)
owned = sa.Table(
    "owned",
    metadata,
    sa.Column("run", sa.LargeBinary, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("own", sa.LargeBinary, nullable=False),
)
