"""Volumes taken over from the original BMI."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "legacy_volumes",
        sa.Column("image_id", sa.Uuid(), nullable=True),
        sa.Column("disk_id", sa.Uuid(), nullable=True),
        sa.Column("backend_name", sa.String(), nullable=False),
        sa.Column("snapshot_name", sa.String(), nullable=True),
        sa.Column("old_name", sa.String(), nullable=False),
        sa.Column("old_project", sa.String(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("adopted_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.CheckConstraint("(image_id IS NULL) <> (disk_id IS NULL)", name=op.f("one_volume")),
        sa.ForeignKeyConstraint(
            ["image_id"], ["images.id"], name=op.f("fk_legacy_volumes_image_id_images"), ondelete="CASCADE"
        ),
        sa.ForeignKeyConstraint(
            ["disk_id"], ["disks.id"], name=op.f("fk_legacy_volumes_disk_id_disks"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_legacy_volumes")),
        sa.UniqueConstraint("backend_name", name=op.f("uq_legacy_volumes_backend_name")),
        sa.UniqueConstraint("disk_id", name=op.f("uq_legacy_volumes_disk_id")),
        sa.UniqueConstraint("image_id", name=op.f("uq_legacy_volumes_image_id")),
    )
