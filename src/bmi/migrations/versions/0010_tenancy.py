"""Nodes that stay with a project, networks that are shared, attachments beside the one that a node boots over."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"

_NATIVE = sa.text("NOT tagged")


def upgrade() -> None:
    with op.batch_alter_table("nodes") as table:
        table.add_column(sa.Column("allocated", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("boots") as table:
        table.add_column(sa.Column("stale", sa.Boolean(), nullable=False, server_default=sa.false()))
    with op.batch_alter_table("networks") as table:
        table.add_column(sa.Column("visibility", sa.String(32), nullable=False, server_default="private"))
    with op.batch_alter_table("attachments") as table:
        table.add_column(sa.Column("state", sa.String(32), nullable=False, server_default="creating"))
    with op.batch_alter_table("projects") as table:
        table.add_column(sa.Column("max_nodes", sa.Integer(), nullable=True))
    # Tables made anew have no defaults of their own.
    for name, column in (
        ("nodes", "allocated"),
        ("boots", "stale"),
        ("networks", "visibility"),
        ("attachments", "state"),
    ):
        with op.batch_alter_table(name) as table:
            table.alter_column(column, server_default=None)
    op.create_index(
        "uq_attachments_native",
        "attachments",
        ["nic_id"],
        unique=True,
        sqlite_where=_NATIVE,
        postgresql_where=_NATIVE,
    )
    op.create_table(
        "network_shares",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("network_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_network_shares"),
        sa.ForeignKeyConstraint(
            ["network_id"],
            ["networks.id"],
            name="fk_network_shares_network_id_networks",
            ondelete="CASCADE",
        ),
        sa.ForeignKeyConstraint(
            ["project_id"],
            ["projects.id"],
            name="fk_network_shares_project_id_projects",
            ondelete="CASCADE",
        ),
        sa.UniqueConstraint("network_id", "project_id", name="uq_network_shares_network_id_project_id"),
    )
    op.create_index("ix_network_shares_project_id", "network_shares", ["project_id"])
