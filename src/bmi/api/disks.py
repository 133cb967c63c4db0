"""Disks on the wire."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from bmi.api.common import Name, Request, Response
from bmi.api.images import Usage
from bmi.api.nodes import Milestone

Source = Annotated[str, StringConstraints(pattern=r"^[^/@\x00-\x1f]+$", max_length=200)]
"""Name of an RBD image in the pool, or of a raw file in the store's folder `adopt`."""


class DiskCreate(Request):
    """A disk to make from an image."""

    name: Name
    image: str
    project: str | None = None
    size: int | None = Field(None, gt=0, le=64 * 1024**4, description="Bytes; the image's size if absent")


class Disk(Response):
    """A writable copy-on-write clone of an image."""

    id: UUID
    name: str
    project: str
    state: Literal["creating", "ready", "removing"]
    image: UUID | None
    image_name: str | None
    node: str | None
    """Name of the node that boots from it."""
    size: int
    usage: Usage | None = Field(None, description="Not in lists, and null where the storage cannot say")
    created_at: datetime


class SnapshotCreate(Request):
    """An image to make from a disk, as the disk is now."""

    name: Name


class DiskAdopt(Request):
    """A content that lies in the store already, to become a disk without a copy."""

    name: Name
    source: Source
    project: str | None = None


class Restart(Request):
    """How far a node's boot is followed that is restarted for a change."""

    until: Milestone = Milestone.UP
    """How far to follow the boot, if the node was on, before the operation succeeds."""
    deadline: float = Field(1800, gt=0, le=86400, description="Seconds the boot may take until then")


class RollBack(Restart):
    """What a disk is to become again. A node that boots from it is switched off meanwhile."""

    image: str | None = None
    """Name or id; what the disk was cloned from if absent."""
    keep: Name | None = None
    """Name of an image to be made of the disk as it is now."""
    other_image: bool = False
    """Take the image although it is no snapshot of the disk, and not what it was cloned from."""


class Grow(Restart):
    """How large a disk is to become."""

    size: int = Field(gt=0, le=64 * 1024**4, description="Bytes, in whole sectors of 512")
    restart: bool = False
    """Switch a node off and on again that boots from the disk and is on; otherwise that is refused."""


class Move(Request):
    """The node that is to boot from a disk instead of the one that does now."""

    to: str
    """Name or id of a free node."""
    network: str | None = None
    """Name or id of a network of the same project; the one where it is now if absent."""
    until: Milestone = Milestone.UP
    """How far to follow the boot before the operation succeeds."""
    deadline: float = Field(1800, gt=0, le=86400, description="Seconds the boot may take until then")
