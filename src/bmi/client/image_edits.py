"""Calls about editing images."""

from uuid import UUID

from bmi.api.image_edit import ImageCommit, ImageDiscard, ImageEdit
from bmi.api.operations import Operation
from bmi.client.transport import Transport


class ImageEdits:
    """Scratch clones of images on nodes, which become new images or go."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def edit(self, image: str | UUID, request: ImageEdit) -> Operation:
        """Start booting a free node from a scratch clone of an image."""
        body = self._transport.in_project(request)
        query = {"project": self._transport.project}
        return self._transport.call("POST", ["images", image, "edit"], Operation, body=body, query=query)

    def commit(self, request: ImageCommit) -> Operation:
        """Start making an image of a node's scratch clone and giving the node back; the result names the image."""
        return self._transport.call("POST", ["images", "commit"], Operation, body=request)

    def discard(self, request: ImageDiscard) -> Operation:
        """Start giving a node back with its scratch clone."""
        return self._transport.call("POST", ["images", "discard"], Operation, body=request)
