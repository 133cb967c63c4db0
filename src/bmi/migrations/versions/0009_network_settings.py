"""Networks say who gives addresses, and what their nodes are told. Those that are there stay as they were."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"

_GIVEN = ("dhcp", "dns", "dns_servers")


def upgrade() -> None:
    with op.batch_alter_table("networks") as table:
        table.add_column(sa.Column("dhcp", sa.String(32), nullable=False, server_default="reservations"))
        table.add_column(sa.Column("dhcp_first", sa.String(), nullable=True))
        table.add_column(sa.Column("dhcp_last", sa.String(), nullable=True))
        table.add_column(sa.Column("router", sa.String(), nullable=True))
        table.add_column(sa.Column("dns", sa.Boolean(), nullable=False, server_default=sa.false()))
        table.add_column(sa.Column("dns_servers", sa.JSON(), nullable=False, server_default="[]"))
        table.add_column(sa.Column("domain", sa.String(), nullable=True))
        table.add_column(sa.Column("mtu", sa.Integer(), nullable=True))
        table.add_column(sa.Column("lease_seconds", sa.Integer(), nullable=True))
    # Tables made anew have no defaults of their own.
    with op.batch_alter_table("networks") as table:
        for column in _GIVEN:
            table.alter_column(column, server_default=None)
