"""Where each run's machine stands."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """The states of runs move in; homes of before there were versions may have this table already."""
    op.create_table(
        "machines",
        sa.Column("run", sa.LargeBinary, primary_key=True),
        sa.Column("state", sa.LargeBinary, nullable=False),
        if_not_exists=True,
    )
