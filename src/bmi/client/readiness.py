"""Calls about images and network boot."""

from uuid import UUID

from bmi.api.operations import Operation
from bmi.api.readiness import ImagePrepare, Readiness
from bmi.client.transport import Transport


class ReadinessCalls:
    """Whether images can boot over iSCSI, and making them so."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def check(self, image: str | UUID) -> Operation:
        """Start looking into an image."""
        return self._transport.call("POST", ["images", image, "check"], Operation, query=self._query())

    def prepare(self, image: str | UUID, request: ImagePrepare) -> Operation:
        """Start making a new image from an image, ready for network boot."""
        path = ["images", image, "prepare"]
        return self._transport.call("POST", path, Operation, body=request, query=self._query())

    def get(self, image: str | UUID) -> Readiness:
        """Return what the last check of an image found, and what was changed in it."""
        return self._transport.call("GET", ["images", image, "readiness"], Readiness, query=self._query())

    def _query(self) -> dict[str, str | None]:
        return {"project": self._transport.project}
