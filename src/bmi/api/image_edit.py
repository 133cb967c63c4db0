"""Editing images, on the wire."""

from pydantic import Field

from bmi.api.common import Name, Request
from bmi.api.nodes import Milestone


class ImageEdit(Request):
    """A node that is to boot a scratch clone of an image."""

    node: str
    """Name or id of a free node."""
    network: str
    project: str | None = None
    hostname: Name | None = None
    """The node's name if absent."""
    ssh_keys: list[str] = Field([], max_length=64)
    until: Milestone = Milestone.UP
    """How far to follow the boot before the operation succeeds."""
    deadline: float = Field(1800, gt=0, le=86400, description="Seconds the boot may take until then")


class ImageCommit(Request):
    """What the scratch clone of a node becomes."""

    node: str
    name: Name
    """What to call the new image."""


class ImageDiscard(Request):
    """A node whose scratch clone is to go."""

    node: str
