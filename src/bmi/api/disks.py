"""Disks on the wire."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from bmi.api.common import Name, Request, Response
from bmi.api.images import Usage


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
