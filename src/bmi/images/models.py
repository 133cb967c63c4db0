"""Tables of images and disks."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

from sqlalchemy import BigInteger, ColumnElement, ForeignKey, Index, UniqueConstraint, and_, or_, select, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.access.models import Project
from bmi.api.images import Visibility
from bmi.db import Lifecycle, Table, now


def _where(condition: str) -> dict[str, Any]:
    return {"sqlite_where": text(condition), "postgresql_where": text(condition)}


class Image(Table):
    """An immutable, bootable disk content. Without a project it is everybody's."""

    __tablename__ = "images"
    __table_args__ = (
        # What is in the trash keeps its name, and does not keep others from it.
        Index("uq_images_name", "project_id", "name", unique=True, **_where("deleted_at IS NULL")),
        # In a unique index two NULLs differ, so images of nobody need an index of their own.
        Index(
            "uq_images_shared_name",
            "name",
            unique=True,
            **_where("project_id IS NULL AND deleted_at IS NULL"),
        ),
    )

    name: Mapped[str]
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id"), index=True)
    state: Mapped[Lifecycle]
    origin: Mapped[Literal["build", "import", "snapshot", "copy"]]
    parent_id: Mapped[UUID | None] = mapped_column(ForeignKey("images.id", ondelete="SET NULL"), index=True)
    size: Mapped[int] = mapped_column(BigInteger)
    created_at: Mapped[datetime] = mapped_column(default=now)
    description: Mapped[str] = mapped_column(default="")
    labels: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """Text by name."""
    visibility: Mapped[Visibility] = mapped_column(default="private")
    digest: Mapped[str | None] = mapped_column(index=True)
    """Of the raw content: `sha256:` and 64 hexadecimal digits."""
    source_digest: Mapped[str | None]
    """Of the file that it was imported from, as it was handed in."""
    deprecated: Mapped[str | None]
    """Why it should not be used any more; None if it may be."""
    deleted_at: Mapped[datetime | None]
    """Since when it has been in the trash."""
    report: Mapped[dict[str, Any] | None]
    """What the last check found."""
    changes: Mapped[dict[str, Any] | None]
    """What was changed in it to make it ready for network boot."""

    promoted_at: Mapped[datetime | None]
    """Since when a snapshot has been a golden image."""

    project: Mapped[Project | None] = relationship(lazy="joined")
    parent: Mapped["Image | None"] = relationship(remote_side="Image.id")

    @property
    def golden(self) -> bool:
        """Whether it is one to begin with; else it is a snapshot, or a copy of one."""
        return self.origin in ("build", "import") or self.promoted_at is not None

    @classmethod
    def offered_to(cls, projects: Collection[UUID]) -> ColumnElement[bool]:
        """Say which images their owners let some projects read and clone that are not theirs."""
        shared = select(ImageShare.image_id).where(ImageShare.project_id.in_(projects))
        return and_(
            cls.deleted_at.is_(None),
            or_(cls.visibility == "public", and_(cls.visibility == "shared", cls.id.in_(shared))),
        )


class ImageShare(Table):
    """A project that may use another one's image, while that is `shared`."""

    __tablename__ = "image_shares"
    __table_args__ = (UniqueConstraint("image_id", "project_id"),)

    image_id: Mapped[UUID] = mapped_column(ForeignKey("images.id", ondelete="CASCADE"))
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)

    project: Mapped[Project] = relationship(lazy="joined")


class Upload(Table):
    """A file on its way to becoming an image; its bytes lie in the spool, under its id."""

    __tablename__ = "uploads"

    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    asked_by: Mapped[str]
    """Name of the user, or of the token."""
    size: Mapped[int | None] = mapped_column(BigInteger)
    """Bytes in all, if that was said."""
    digest: Mapped[str | None]
    """Of the whole file, if that was said: `sha256:` and 64 hexadecimal digits."""
    received: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes that have arrived and are on the disk."""
    created_at: Mapped[datetime] = mapped_column(default=now)
    touched_at: Mapped[datetime] = mapped_column(default=now)
    """When something arrived last; it is removed some time after that."""


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
