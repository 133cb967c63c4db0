"""Images get words, labels, visibility, digests and a trash; uploads; quotas of projects; claims of two nodes."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

_NOT_DELETED = sa.text("deleted_at IS NULL")
_SHARED = sa.text("project_id IS NULL AND deleted_at IS NULL")
_RUNNING = sa.text("ended_at IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("images") as table:
        table.add_column(sa.Column("description", sa.String(), nullable=False, server_default=""))
        table.add_column(sa.Column("labels", sa.JSON(), nullable=False, server_default="{}"))
        table.add_column(sa.Column("visibility", sa.String(32), nullable=False, server_default="private"))
        table.add_column(sa.Column("digest", sa.String(), nullable=True))
        table.add_column(sa.Column("source_digest", sa.String(), nullable=True))
        table.add_column(sa.Column("deprecated", sa.String(), nullable=True))
        table.add_column(sa.Column("deleted_at", sa.DateTime(timezone=True), nullable=True))
        table.add_column(sa.Column("report", sa.JSON(), nullable=True))
        table.add_column(sa.Column("changes", sa.JSON(), nullable=True))
        table.add_column(sa.Column("promoted_at", sa.DateTime(timezone=True), nullable=True))
        table.drop_constraint("uq_images_project_id_name", type_="unique")
        table.drop_index("uq_images_shared_name")
    # What is in the trash keeps its name, and does not keep others from it.
    op.create_index(
        "uq_images_name",
        "images",
        ["project_id", "name"],
        unique=True,
        sqlite_where=_NOT_DELETED,
        postgresql_where=_NOT_DELETED,
    )
    op.create_index(
        "uq_images_shared_name",
        "images",
        ["name"],
        unique=True,
        sqlite_where=_SHARED,
        postgresql_where=_SHARED,
    )
    op.create_index("ix_images_digest", "images", ["digest"])
    op.execute("UPDATE images SET visibility = 'public' WHERE project_id IS NULL")

    op.create_table(
        "image_shares",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("image_id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_image_shares"),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name="fk_image_shares_image_id_images", ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_image_shares_project_id_projects", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("image_id", "project_id", name="uq_image_shares_image_id_project_id"),
    )
    op.create_index("ix_image_shares_project_id", "image_shares", ["project_id"])

    op.create_table(
        "uploads",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("project_id", sa.Uuid(), nullable=True),
        sa.Column("asked_by", sa.String(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=True),
        sa.Column("digest", sa.String(), nullable=True),
        sa.Column("received", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("touched_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_uploads"),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name="fk_uploads_project_id_projects", ondelete="CASCADE"
        ),
    )
    op.create_index("ix_uploads_project_id", "uploads", ["project_id"])

    with op.batch_alter_table("projects") as table:
        table.add_column(sa.Column("max_images", sa.Integer(), nullable=True))
        table.add_column(sa.Column("max_disks", sa.Integer(), nullable=True))
        table.add_column(sa.Column("max_image_bytes", sa.BigInteger(), nullable=True))
        table.add_column(sa.Column("max_disk_bytes", sa.BigInteger(), nullable=True))

    # An operation that moves a disk changes two nodes.
    with op.batch_alter_table("operations") as table:
        table.add_column(sa.Column("second_node_id", sa.Uuid(), nullable=True))
    op.create_index(
        "uq_operations_running_second_node_id",
        "operations",
        ["second_node_id"],
        unique=True,
        sqlite_where=_RUNNING,
        postgresql_where=_RUNNING,
    )
