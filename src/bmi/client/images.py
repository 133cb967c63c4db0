"""Calls about images."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.images import Image, ImageAdopt, ImageBuild
from bmi.api.intake import ImageImport
from bmi.api.operations import Operation
from bmi.client.transport import Transport


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

    def list(self, *, limit: int | None = None) -> Iterator[Image]:
        """Go through the images."""
        query = {"project": self._transport.project}
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

    def delete(self, image: str | UUID) -> Operation:
        """Start removing an image."""
        query = {"project": self._transport.project}
        return self._transport.call("DELETE", ["images", image], Operation, query=query)
