"""Table of volumes that still lie in Ceph under the names that the original BMI gave them."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import CheckConstraint, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.db import Table, now
from bmi.images.models import Disk, Image


class LegacyVolume(Table):
    """Where the content of an image or a disk is until the storage driver has adopted it.

    The row stays after that, so that an import that is repeated knows what it has already taken over.
    """

    __tablename__ = "legacy_volumes"
    __table_args__ = (CheckConstraint("(image_id IS NULL) <> (disk_id IS NULL)", name="one_volume"),)

    image_id: Mapped[UUID | None] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"), unique=True)
    disk_id: Mapped[UUID | None] = mapped_column(ForeignKey("disks.id", ondelete="CASCADE"), unique=True)
    backend_name: Mapped[str] = mapped_column(unique=True)
    """Name in Ceph."""
    snapshot_name: Mapped[str | None]
    """The snapshot that clones were made from; images only."""
    old_name: Mapped[str]
    old_project: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(default=now)
    adopted_at: Mapped[datetime | None]
    """When the storage driver took it over; its name in Ceph is the driver's own since."""

    image: Mapped[Image | None] = relationship(lazy="joined")
    disk: Mapped[Disk | None] = relationship(lazy="joined")
