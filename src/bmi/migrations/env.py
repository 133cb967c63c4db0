"""Runs migrations on the connection that bmi.db passes."""

from alembic import context

from bmi import tables
from bmi.db import Table

assert tables  # noqa: S101 - imported so that every table is known

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Table.metadata,
    render_as_batch=True,  # SQLite cannot alter a table in place
    transaction_per_migration=True,
)
with context.begin_transaction():
    context.run_migrations()
