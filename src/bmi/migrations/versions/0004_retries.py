"""What is needed to ask for an operation again, and how it ended."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    with op.batch_alter_table("operations") as table:
        table.add_column(sa.Column("ending", sa.String(32), nullable=True))
        table.add_column(sa.Column("asked", sa.JSON(), nullable=True))
        table.add_column(sa.Column("retry_of", sa.Uuid(), nullable=True))
