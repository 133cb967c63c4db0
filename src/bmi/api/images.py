"""Images on the wire."""

from datetime import datetime
from typing import Literal
from uuid import UUID

from pydantic import Field

from bmi.api.common import Name, Request, Response

Visibility = Literal["private", "shared", "public"]
"""Who may use an image: its project; the projects that it is shared with too; everybody."""


class ImageBuild(Request):
    """A golden image to build from a distribution's packages."""

    name: Name
    project: str | None = None
    distribution: Literal["debian"] = "debian"
    size: int = Field(
        2 * 1024**3,
        ge=1024**3,
        le=1024**4,
        multiple_of=1024**2,
        description="Bytes of the disk that nodes see",
    )
    cloud_init: bool = Field(False, description="Put cloud-init in, instead of BMI's small first-boot script")
    cleaner: bool = Field(
        False, description="It wipes the local disks of nodes that are booted with it to be cleaned"
    )
    kernel: Literal["cloud", "generic"] = Field("cloud", description="generic: drivers of real servers")
    packages: list[str] = Field([], max_length=200, description="More Debian packages to put in")


class ImageAdopt(Request):
    """A content that lies in the store already, to become an image without a copy."""

    name: Name
    source: str = Field(
        pattern=r"^[^/@\x00-\x1f]+$",
        max_length=200,
        description="Name of an RBD image in the pool, or of a raw file in the store's folder `adopt`",
    )
    project: str | None = None


class Usage(Response):
    """What a content takes in the store, in bytes; holes take nothing."""

    own: int = Field(description="What would become free if it were removed")
    shared: int = Field(description="What it has in common with others")


class Image(Response):
    """An immutable, bootable disk content."""

    id: UUID
    name: str
    project: str | None
    state: Literal["creating", "ready", "removing"]
    origin: Literal["build", "import", "snapshot", "copy"]
    parent: UUID | None
    parent_name: str | None
    size: int
    usage: Usage | None = Field(None, description="Not in lists, and null where the storage cannot say")
    created_at: datetime
    golden: bool = Field(True, description="Whether it is a golden image; else it is a snapshot")
    description: str = ""
    labels: dict[str, str] = {}
    visibility: Visibility = "private"
    deprecated: str | None = Field(None, description="Why it should not be used any more")
    deleted_at: datetime | None = Field(None, description="Since when it has been in the trash")
