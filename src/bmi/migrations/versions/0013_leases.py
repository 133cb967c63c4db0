"""Which node of the site's inventory a node is, who has it there, and since when nobody here does."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    with op.batch_alter_table("nodes") as table:
        table.add_column(sa.Column("inventory_name", sa.String(), nullable=True))
        table.add_column(sa.Column("inventory_project", sa.String(), nullable=True))
        table.add_column(sa.Column("lease_ended_at", sa.DateTime(timezone=True), nullable=True))
        table.create_unique_constraint("uq_nodes_inventory_name", ["inventory_name"])
