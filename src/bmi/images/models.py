"""Tables of images and disks."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.access.models import Project
from bmi.db import Lifecycle, Table, now


class Image(Table):
    """An immutable, bootable disk content. Without a project it is everybody's."""

    __tablename__ = "images"
    __table_args__ = (
        UniqueConstraint("project_id", "name"),
        # In a unique constraint two NULLs differ, so images of nobody need an index of their own.
        Index(
            "uq_images_shared_name",
            "name",
            unique=True,
            sqlite_where=text("project_id IS NULL"),
            postgresql_where=text("project_id IS NULL"),
        ),
    )

    name: Mapped[str]
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id"), index=True)
    state: Mapped[Lifecycle]
    origin: Mapped[Literal["build", "import", "snapshot"]]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("images.id", ondelete="SET NULL"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)

    project: Mapped[Project | None] = relationship(lazy="joined")
    parent: Mapped["Image | None"] = relationship(remote_side="Image.id")


class Disk(Table):
    """A writable clone of an image."""

    __tablename__ = "disks"
    __table_args__ = (UniqueConstraint("project_id", "name"),)

    name: Mapped[str]
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id"), index=True)
    image_id: Mapped[UUID | None] = mapped_column(ForeignKey("images.id", ondelete="SET NULL"), index=True)
    state: Mapped[Lifecycle]
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)

    project: Mapped[Project] = relationship(lazy="joined")
    image: Mapped[Image | None] = relationship(lazy="joined")
