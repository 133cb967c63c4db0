"""What comes in and goes out, on the wire: uploads, imports, exports."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal, Self
from uuid import UUID

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from bmi.api.common import Name, Request, Response


class Format(StrEnum):
    """How a disk's content lies in a file."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VHDX = "vhdx"
    VDI = "vdi"


def _prefixed(digest: str) -> str:
    return f"sha256:{digest.lower().removeprefix('sha256:')}"


Digest = Annotated[str, StringConstraints(pattern=r"^(sha256:)?[0-9a-fA-F]{64}$"), AfterValidator(_prefixed)]
"""SHA-256 as 64 hexadecimal digits; `sha256:` may stand before them."""


class UploadCreate(Request):
    """A file that is about to be sent."""

    project: str | None = None
    size: int | None = Field(None, ge=1, description="Bytes in all, if that is known")
    digest: Digest | None = Field(None, description="Of the whole file, if that is known")


class Upload(Response):
    """A file on its way in. What has arrived is kept for some time, and the rest can be sent later."""

    id: UUID
    project: str | None
    asked_by: str = Field(description="Name of the token")
    size: int | None
    digest: str | None
    received: int = Field(description="Bytes that are on the disk; send on from there")
    created_at: datetime
    touched_at: datetime = Field(description="When something arrived last")


class ImageImport(Request):
    """An image to be made from a file: one that was uploaded, or one that a URL leads to."""

    name: Name
    project: str | None = None
    upload: UUID | None = None
    url: str | None = Field(None, max_length=4000, pattern=r"^https?://", description="http or https")
    format: Format | None = Field(None, description="Recognised by the file's header if absent")
    digest: Digest | None = Field(None, description="Of the file as it is handed in")
    again: bool = Field(False, description="Also if there is an image with this content already")

    @model_validator(mode="after")
    def _from_somewhere(self) -> Self:
        if (self.upload is None) == (self.url is None):
            raise ValueError("give an upload or a url, and not both")
        return self


class ImageExport(Request):
    """An image to be written into a file, to be fetched from /v1/exports/OPERATION."""

    format: Literal[Format.RAW, Format.QCOW2] = Format.RAW
    compress: bool = Field(False, description="qcow2 only: smaller, and slower to read")
