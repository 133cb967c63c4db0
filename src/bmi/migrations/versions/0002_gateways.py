"""Gateways, their orders, workers, and which of them carries what."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "gateways",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("held_by_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["held_by_id"], ["gateways.id"], name=op.f("fk_gateways_held_by_id_gateways")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_gateways")),
        sa.UniqueConstraint("name", name=op.f("uq_gateways_name")),
        sa.UniqueConstraint("number", name=op.f("uq_gateways_number")),
    )
    op.create_table(
        "orders",
        sa.Column("gateway_id", sa.Uuid(), nullable=False),
        sa.Column("verb", sa.String(), nullable=False),
        sa.Column("subject", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("error", sa.JSON(), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.ForeignKeyConstraint(
            ["gateway_id"], ["gateways.id"], name=op.f("fk_orders_gateway_id_gateways"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
    )
    op.create_index("ix_orders_open", "orders", ["ended_at", "gateway_id"])
    op.create_table(
        "workers",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_workers")),
        sa.UniqueConstraint("name", name=op.f("uq_workers_name")),
    )
    with op.batch_alter_table("operations") as batch_op:
        batch_op.add_column(sa.Column("worker", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("claim", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("operations") as batch_op:
        batch_op.alter_column("claim", server_default=None)
    _give_boots_a_gateway()


def _give_boots_a_gateway() -> None:
    """The boot records that are there belong to the one gateway that there was."""
    connection = op.get_bind()
    with op.batch_alter_table("boots") as batch_op:
        batch_op.add_column(sa.Column("gateway_id", sa.Uuid(), nullable=True))
        batch_op.add_column(sa.Column("exported_by_id", sa.Uuid(), nullable=True))
    installation = connection.execute(sa.text("SELECT id, created_at FROM installation")).first()
    if installation is not None:
        gateways = sa.table(
            "gateways",
            sa.column("id"),
            sa.column("name"),
            sa.column("number"),
            sa.column("seen_at"),
            sa.column("created_at"),
        )
        connection.execute(
            gateways.insert().from_select(
                ["id", "name", "number", "seen_at", "created_at"],
                sa.select(
                    sa.column("id"),
                    sa.literal("gateway"),
                    sa.literal(1),
                    sa.column("created_at"),
                    sa.column("created_at"),
                ).select_from(sa.table("installation")),
            )
        )
        connection.execute(sa.text("UPDATE boots SET gateway_id = (SELECT id FROM gateways)"))
    with op.batch_alter_table("boots") as batch_op:
        batch_op.alter_column("gateway_id", existing_type=sa.Uuid(), nullable=False)
        batch_op.create_foreign_key(op.f("fk_boots_gateway_id_gateways"), "gateways", ["gateway_id"], ["id"])
        batch_op.create_foreign_key(
            op.f("fk_boots_exported_by_id_gateways"), "gateways", ["exported_by_id"], ["id"]
        )
        batch_op.create_index(op.f("ix_boots_gateway_id"), ["gateway_id"])


def downgrade() -> None:
    with op.batch_alter_table("boots") as batch_op:
        batch_op.drop_index(op.f("ix_boots_gateway_id"))
        batch_op.drop_constraint(op.f("fk_boots_exported_by_id_gateways"), type_="foreignkey")
        batch_op.drop_constraint(op.f("fk_boots_gateway_id_gateways"), type_="foreignkey")
        batch_op.drop_column("exported_by_id")
        batch_op.drop_column("gateway_id")
    with op.batch_alter_table("operations") as batch_op:
        batch_op.drop_column("claim")
        batch_op.drop_column("worker")
    op.drop_table("workers")
    op.drop_table("orders")
    op.drop_table("gateways")
