"""Tables of projects and tokens."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.api.access import Role
from bmi.db import Table, now


class Installation(Table):
    """This installation of BMI; one row. What BMI makes outside the database is marked with its id."""

    __tablename__ = "installation"

    created_at: Mapped[datetime] = mapped_column(default=now)


class Project(Table):
    """A tenant."""

    __tablename__ = "projects"

    name: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    max_images: Mapped[int | None]
    """How many images it may own; any number if None, as in the next three."""
    max_disks: Mapped[int | None]
    max_image_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_disk_bytes: Mapped[int | None] = mapped_column(BigInteger)


class Token(Table):
    """An API key. Only a digest of the secret is kept."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(unique=True)
    digest: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role]
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]

    project: Mapped[Project | None] = relationship(lazy="joined")
