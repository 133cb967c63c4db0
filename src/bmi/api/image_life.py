"""The life of images on the wire: words, labels, who may use them, copies, moves."""

from datetime import datetime
from typing import Annotated
from uuid import UUID

from pydantic import Field, StringConstraints

from bmi.api.common import Change, Name, Request, Response
from bmi.api.images import Visibility

LABELS = 64
"""How many labels an image has at the most."""

Key = Annotated[
    str, StringConstraints(pattern=r"^[a-z0-9]([a-z0-9._/-]{0,61}[a-z0-9])?$", min_length=1, max_length=63)
]
"""Name of a label: lower-case letters, digits, dots, underlines, slashes and dashes."""

Value = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]*$", max_length=255)]
"""A line of text, possibly empty."""

Words = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x08\x0b-\x1f\x7f]*$", max_length=2000)]
"""Some lines of text."""

Reason = Annotated[Value, StringConstraints(min_length=1)]


class ImageChange(Change):
    """What is to be different about an image; what is absent stays as it is."""

    name: Name | None = None
    description: Words | None = None
    labels: dict[Key, Value | None] = Field(
        {}, max_length=LABELS, description="Labels to set; null takes one away, those not named stay"
    )
    visibility: Visibility | None = Field(
        None, description="private also ends all sharing; public is for admins to give"
    )
    deprecated: Reason | None = Field(
        None, description="Why it should not be used any more; null takes that back"
    )


class ImageCopy(Request):
    """A copy of an image to make."""

    name: Name
    project: str | None = Field(None, description="Name or id of the project that the copy is for")
    everybody: bool = Field(False, description="It is for everybody, and belongs to no project; for admins")


class ImageMove(Request):
    """The project that an image is to belong to."""

    project: str | None = Field(None, description="Its name or id")
    everybody: bool = Field(
        False, description="It is to be everybody's, and belong to no project; for admins"
    )
    name: Name | None = Field(None, description="What it is called there; as before if absent")


class ImagePromote(Request):
    """A snapshot that is to be a golden image."""

    name: Name | None = Field(None, description="What it is called from now on; as before if absent")
    public: bool = Field(False, description="Every project may use it from now on; for admins")


class ImageUndelete(Request):
    """An image to take out of the trash."""

    name: Name | None = Field(None, description="What it is called from now on; as before if absent")


class ImageShare(Response):
    """A project that an image is shared with."""

    project: str
    project_id: UUID
    created_at: datetime
