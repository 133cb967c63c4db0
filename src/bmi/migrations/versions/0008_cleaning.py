"""Nodes whose local disks are to be cleaned, boots that clean them, and what those reported."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    with op.batch_alter_table("nodes") as table:
        table.add_column(sa.Column("dirty", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("boots") as table:
        table.add_column(sa.Column("cleaning", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("cleaned", sa.JSON(), nullable=True))
    # Tables made anew have no defaults of their own.
    for name, column in (("nodes", "dirty"), ("boots", "cleaning")):
        with op.batch_alter_table(name) as table:
            table.alter_column(column, server_default=None)
