"""A leaf's kind and the tree's frontier are computed from verified leaves; states of machines are sealed."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """What a store could be asked instead is gone, and so are states that anybody could read."""
    op.drop_index("ix_leaves_kind", "leaves")
    op.drop_column("leaves", "kind")
    op.drop_column("head", "frontier")
    op.execute("DELETE FROM machines")
