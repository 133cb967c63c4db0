"""Calls about machines that nobody has registered yet."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.discovery import Discovered, DiscoveredCabling, Enrol
from bmi.api.nodes import Node
from bmi.client.transport import Transport

_SWITCHES = 120  # seconds that the service may take to ask its switches


class DiscoveredMachines:
    """Machines that booted on the discovery network."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(self, *, limit: int | None = None) -> Iterator[Discovered]:
        """Go through the machines, those that came first before the others."""
        return self._transport.items(["discovered"], Discovered, limit=limit)

    def get(self, machine: str | UUID) -> DiscoveredCabling:
        """Return a machine by its id, or by the MAC address that it booted from, and where its cables end."""
        return self._transport.call("GET", ["discovered", machine], DiscoveredCabling, patience=_SWITCHES)

    def enrol(self, machine: str | UUID, request: Enrol) -> Node:
        """Make a node of a machine."""
        path = ["discovered", machine, "enrol"]
        return self._transport.call("POST", path, Node, body=request, patience=_SWITCHES)

    def forget(self, machine: str | UUID) -> None:
        """Forget a machine, until it reports again."""
        self._transport.done("DELETE", ["discovered", machine])
