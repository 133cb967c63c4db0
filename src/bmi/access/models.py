"""Tables of projects, users and tokens."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint
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
    max_nodes: Mapped[int | None]
    """How many nodes may be its at a time; any number if None, as in the next four."""
    max_images: Mapped[int | None]
    max_disks: Mapped[int | None]
    max_image_bytes: Mapped[int | None] = mapped_column(BigInteger)
    max_disk_bytes: Mapped[int | None] = mapped_column(BigInteger)


class User(Table):
    """A person who logs in: with a password, or by an OpenID Connect provider."""

    __tablename__ = "users"
    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    name: Mapped[str] = mapped_column(unique=True)
    password: Mapped[str | None]
    """Its argon2id hash; None for one whom a provider recognises."""
    issuer: Mapped[str | None]
    """The provider; None for one with a password."""
    subject: Mapped[str | None]
    """Who that is there, whatever his name becomes."""
    admin: Mapped[bool]
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(default=now)


class Membership(Table):
    """What a user may do in a project."""

    __tablename__ = "memberships"
    __table_args__ = (UniqueConstraint("user_id", "project_id"),)

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"))
    project_id: Mapped[UUID] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    role: Mapped[Role]
    provided: Mapped[bool] = mapped_column(default=False)
    """Whether it comes from a group of the provider, and goes with it."""
    created_at: Mapped[datetime] = mapped_column(default=now)

    user: Mapped[User] = relationship(lazy="joined")
    project: Mapped[Project] = relationship(lazy="joined")


class LogIn(Table):
    """A session: what a user has after he has logged in. Only a digest of the secret is kept."""

    __tablename__ = "sessions"

    user_id: Mapped[UUID] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    digest: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
    used_at: Mapped[datetime] = mapped_column(default=now)
    """When it was used last, to about a minute."""
    expires_at: Mapped[datetime] = mapped_column(index=True)

    user: Mapped[User] = relationship(lazy="joined")


class Attempts(Table):
    """How often somebody has just tried to log in; see `bmi.access.throttle`."""

    __tablename__ = "log_in_attempts"

    key: Mapped[str] = mapped_column(unique=True)
    """Digest of an address or of a user's name: people also type passwords where the name belongs."""
    free_at: Mapped[datetime] = mapped_column(index=True)
    """When the last of them will be forgotten."""


class Token(Table):
    """An API key. Only a digest of the secret is kept."""

    __tablename__ = "tokens"

    name: Mapped[str] = mapped_column(unique=True)
    user_id: Mapped[UUID | None] = mapped_column(ForeignKey("users.id", ondelete="CASCADE"), index=True)
    """Whose it is: it never may more than he; None for a service's own."""
    digest: Mapped[str] = mapped_column(unique=True)
    role: Mapped[Role]
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    expires_at: Mapped[datetime | None]

    project: Mapped[Project | None] = relationship(lazy="joined")
    user: Mapped[User | None] = relationship(lazy="joined")
