"""Calls about the processes of an installation."""

from collections.abc import Iterator

from bmi.api.members import Member
from bmi.client.transport import Transport


class Members:
    """Gateways and workers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> Iterator[Member]:
        """Go through the gateways and the workers."""
        return self._transport.items(["members"], Member, limit=limit)
