"""Projects, users and tokens on the wire."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import Field

from bmi.api.common import Change, Name, Request, Response

_COUNT = 10**6  # more of anything than a project can have; the database keeps 32 bits
_BYTES = 1 << 62  # what the database keeps is signed


class Role(StrEnum):
    """What somebody may do in a project, or everywhere."""

    VIEWER = "viewer"
    """Sees everything in the project, changes nothing."""
    MEMBER = "member"
    """Uses the project: provisions nodes, makes disks and snapshots."""
    MANAGER = "manager"
    """Also makes and removes networks, and gives tokens for the project."""
    ADMIN = "admin"
    """Everything, in every project."""


class ProjectCreate(Request):
    """A project to make."""

    name: Name


class Quota(Response):
    """What a project may own at the most; null where it is as much as it likes.

    Sizes are in bytes that a node sees. What is in the trash counts too.
    """

    images: int | None = None
    image_bytes: int | None = None
    disks: int | None = None
    disk_bytes: int | None = None


class QuotaChange(Change):
    """What a project may own from now on; null for as much as it likes. What is absent stays as it is."""

    images: int | None = Field(None, ge=0, le=_COUNT)
    image_bytes: int | None = Field(None, ge=0, le=_BYTES)
    disks: int | None = Field(None, ge=0, le=_COUNT)
    disk_bytes: int | None = Field(None, ge=0, le=_BYTES)


class ProjectUse(Response):
    """What a project owns."""

    images: int
    image_bytes: int
    disks: int
    disk_bytes: int
    trashed_images: int = Field(description="Of the images, those in the trash")
    trashed_image_bytes: int


class Project(Response):
    """A tenant."""

    id: UUID
    name: str
    created_at: datetime
    quota: Quota = Quota()
    use: ProjectUse | None = Field(None, description="Not in lists")


class TokenCreate(Request):
    """A token to make."""

    name: Name
    role: Role
    project: str | None = None
    """Name or id of the project it is good for; none for an admin's."""
    expires_at: datetime | None = None


class Token(Response):
    """An API key; its secret is shown once only, when it is made."""

    id: UUID
    name: str
    role: Role
    project: str | None
    created_at: datetime
    expires_at: datetime | None


class TokenSecret(Token):
    """A token that was just made, with its secret."""

    secret: str


class Identity(Response):
    """Who a request's token stands for."""

    token: str
    role: Role
    project: str | None
