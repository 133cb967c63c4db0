"""Calls about images."""

import builtins
from collections.abc import Iterator, Sequence
from typing import TypeVar
from uuid import UUID

from pydantic import BaseModel

from bmi.api.common import Request
from bmi.api.image_life import ImageChange, ImageCopy, ImageMove, ImagePromote, ImageShare, ImageUndelete
from bmi.api.images import Image, ImageAdopt, ImageBuild
from bmi.api.intake import ImageImport
from bmi.api.operations import Operation
from bmi.client.transport import Transport

M = TypeVar("M", bound=BaseModel)


class Images:
    """Immutable, bootable disk contents."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def build(self, request: ImageBuild) -> Operation:
        """Start building a golden image from a distribution's packages."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["images", "build"], Operation, body=body)

    def import_(self, request: ImageImport) -> Operation:
        """Start making an image of an upload, or of what a URL leads to."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["images", "import"], Operation, body=body)

    def adopt(self, request: ImageAdopt) -> Operation:
        """Start making an image of a content that lies in the store already, without copying it."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["images", "adopt"], Operation, body=body)

    def list(self, *, limit: int | None = None, deleted: bool = False) -> Iterator[Image]:
        """Go through the images, or through those in the trash."""
        query = {"project": self._transport.project, "deleted": "true" if deleted else None}
        return self._transport.items(["images"], Image, query=query, limit=limit)

    def get(self, image: str | UUID) -> Image:
        """Return an image by name or id."""
        query = {"project": self._transport.project}
        return self._transport.call("GET", ["images", image], Image, query=query)

    def adopt_legacy(self) -> Operation:
        """Start making images and disks of what was imported from the original BMI."""
        return self._transport.call("POST", ["images", "adopt-legacy"], Operation)

    def flatten(self, image: str | UUID) -> Operation:
        """Start making an image independent of what it was made from."""
        query = {"project": self._transport.project}
        return self._transport.call("POST", ["images", image, "flatten"], Operation, query=query)

    def change(self, image: str | UUID, request: ImageChange) -> Image:
        """Change what is said about an image, and who may use it."""
        return self._call("PATCH", [image], Image, request)

    def copy(self, image: str | UUID, request: ImageCopy) -> Operation:
        """Start making an image with the same content."""
        body = request if request.everybody else self._transport.in_project(request)
        return self._call("POST", [image, "copy"], Operation, body)

    def move(self, image: str | UUID, request: ImageMove) -> Image:
        """Give an image to another project, or to everybody."""
        return self._call("POST", [image, "move"], Image, request)

    def promote(self, image: str | UUID, request: ImagePromote) -> Operation:
        """Make a golden image of a snapshot, and start making it independent."""
        return self._call("POST", [image, "promote"], Operation, request)

    def shares(self, image: str | UUID) -> builtins.list[ImageShare]:
        """Return the projects that an image is shared with."""
        query = {"project": self._transport.project}
        return self._transport.page(["images", image, "shares"], ImageShare, query=query).items

    def share(self, image: str | UUID, project: str | UUID) -> ImageShare:
        """Let another project use an image."""
        return self._call("PUT", [image, "shares", project], ImageShare)

    def unshare(self, image: str | UUID, project: str | UUID) -> None:
        """Let a project use an image no longer."""
        query = {"project": self._transport.project}
        self._transport.done("DELETE", ["images", image, "shares", project], query=query)

    def delete(self, image: str | UUID) -> Image:
        """Put an image into the trash."""
        return self._call("DELETE", [image], Image)

    def undelete(self, image: str | UUID, request: ImageUndelete) -> Image:
        """Take an image out of the trash."""
        return self._call("POST", [image, "undelete"], Image, request)

    def purge(self, image: str | UUID) -> Operation:
        """Start removing an image for good."""
        return self._call("POST", [image, "purge"], Operation)

    def _call(
        self, method: str, path: Sequence[str | UUID], answer: type[M], body: Request | None = None
    ) -> M:
        query = {"project": self._transport.project}
        return self._transport.call(method, ["images", *path], answer, body=body, query=query)
