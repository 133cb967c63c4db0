"""Projects, users and tokens on the wire."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from bmi.api.common import Name, Request, Response


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


class Project(Response):
    """A tenant."""

    id: UUID
    name: str
    created_at: datetime


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
