"""Types that every room uses on the wire."""

from typing import Annotated, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

T = TypeVar("T")

Name = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$", min_length=1, max_length=63)
]
"""What people call a thing: lower-case letters, digits, dots and dashes."""


DOMAIN = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*"
"""Form of a domain (RFC 1123)."""
DOMAIN_LENGTH = 120
"""Characters: a node's and a project's name go before it, and 253 are the most of a name as a whole."""


class Request(BaseModel):
    """Base of request bodies: a misspelled field is an error, not ignored."""

    model_config = ConfigDict(extra="forbid")


class Change(Request):
    """Base of bodies that change a thing: what is absent stays as it is, what is null is taken away."""


class Response(BaseModel):
    """Base of response bodies: fields that a newer server adds are ignored."""

    model_config = ConfigDict(extra="ignore")


class Page(Response, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: str | None = Field(None, description="Cursor of the next page; null on the last one")


class Problem(Response):
    """An error, as RFC 9457 describes it."""

    type: str = Field(description="Stable URI of the kind of error: urn:bmi:error:CODE")
    title: str
    status: int
    detail: str = Field(description="What is wrong, and with what")
    code: str = Field(description="Stable code of the kind of error")
    next_step: str = Field(description="What to do about it")


class Version(Response):
    """What answers."""

    version: str
    api: str = "v1"
