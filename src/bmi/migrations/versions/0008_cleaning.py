"""Nodes whose local disks are to be cleaned, boots that clean them, and what those reported."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    for table, column in (("nodes", "dirty"), ("boots", "cleaning")):
        with op.batch_alter_table(table) as batch:
            batch.add_column(sa.Column(column, sa.Boolean(), nullable=False, server_default=sa.false()))
        with op.batch_alter_table(table) as batch:
            batch.alter_column(column, server_default=None)
    op.add_column("boots", sa.Column("cleaned", sa.JSON(), nullable=True))
