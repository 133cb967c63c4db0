"""Projects, users and tokens on the wire."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import Field, PlainSerializer, SecretStr

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

    nodes: int | None = None
    images: int | None = None
    image_bytes: int | None = None
    disks: int | None = None
    disk_bytes: int | None = None


class QuotaChange(Change):
    """What a project may own from now on; null for as much as it likes. What is absent stays as it is."""

    nodes: int | None = Field(None, ge=0, le=_COUNT)
    images: int | None = Field(None, ge=0, le=_COUNT)
    image_bytes: int | None = Field(None, ge=0, le=_BYTES)
    disks: int | None = Field(None, ge=0, le=_COUNT)
    disk_bytes: int | None = Field(None, ge=0, le=_BYTES)


class ProjectUse(Response):
    """What a project owns."""

    nodes: int = Field(0, description="Those that it boots, and those that are allocated to it")
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
    user: str | None = None
    """Whose it is: it may never more than he; null for a service's own."""
    created_at: datetime
    expires_at: datetime | None


class TokenSecret(Token):
    """A token that was just made, with its secret."""

    secret: str


class Identity(Response):
    """Whom a request's token or session stands for."""

    name: str
    """The user, USER/TOKEN for a token of his, or a service's token."""
    admin: bool = False
    """Whether everything is allowed, in every project."""
    roles: dict[str, Role] = {}
    """What is allowed in which project, by its name."""
    user: str | None = None
    """The user; null for a service's token."""
    expires_at: datetime | None = None
    """When the session, or the token, ends at the latest."""


# --- users, and how they log in ---------------------------------------------------------------------------

# Shown nowhere, but on its way to the service.
_on_the_wire = PlainSerializer(lambda secret: secret.get_secret_value(), return_type=str, when_used="json")

Password = Annotated[SecretStr, Field(min_length=1, max_length=1024), _on_the_wire]
NewPassword = Annotated[SecretStr, Field(min_length=12, max_length=1024), _on_the_wire]
"""12 characters at least: NIST SP 800-63B-4 asks for length, and for no mixture of kinds."""


class UserCreate(Request):
    """A user to make."""

    name: Name
    password: NewPassword
    admin: bool = False


class UserChange(Change):
    """What becomes of a user."""

    admin: bool | None = Field(None, description="Whether everything is allowed, in every project")
    disabled: bool | None = Field(None, description="Whether nothing is; sessions end at once")


class PasswordSet(Request):
    """A user's new password."""

    password: NewPassword


class PasswordChange(Request):
    """One's own new password."""

    old: Password
    new: NewPassword


class User(Response):
    """A person who logs in."""

    id: UUID
    name: str
    admin: bool
    disabled: bool
    provider: str | None
    """The OpenID Connect provider that recognises this user; null for one with a password."""
    created_at: datetime


class MemberSet(Request):
    """What a user may do in a project from now on."""

    role: Role


class Member(Response):
    """What a user may do in a project."""

    user: str
    role: Role
    provided: bool
    """Whether it comes from a group of the provider, and goes with it."""
    created_at: datetime


class LogIn(Request):
    """Who wants to log in."""

    name: str = Field(max_length=1024)
    password: Password


class LogInBegin(Request):
    """A log-in by the OpenID Connect provider, to be begun."""

    redirect_uri: str = Field(max_length=1024)
    """Where the browser comes back to: http://127.0.0.1:PORT/, where the client listens."""


class LogInBegun(Response):
    """A log-in by the OpenID Connect provider that waits for the person."""

    url: str
    """Where the browser goes."""
    handle: str
    """What finishes it, together with what the browser brings back; good for ten minutes."""


class LogInFinish(Request):
    """What the provider gave the browser."""

    handle: str = Field(max_length=8192)
    code: str = Field(max_length=8192)
    state: str = Field(max_length=1024)
    iss: str | None = Field(None, max_length=1024)


class Session(Response):
    """A session that was just begun."""

    user: str
    secret: str
    """Used like a token's; shown here only."""
    expires_at: datetime
    """When it ends at the latest; unused, it ends before."""
