"""Run by Alembic: the steps happen on the connection, and inside the transaction, that opens the store."""

from __future__ import annotations

from alembic import context

from securefl.ledger.migrate import TABLE

context.configure(connection=context.config.attributes["connection"], version_table=TABLE)
context.run_migrations()
