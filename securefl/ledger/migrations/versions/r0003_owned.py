"""What a member keeps of a run, by the plan that it is of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Own models and weights move in from files beside the store; no earlier file is read."""
    op.create_table(
        "owned",
        sa.Column("run", sa.LargeBinary, primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("own", sa.LargeBinary, nullable=False),
        if_not_exists=True,
    )
