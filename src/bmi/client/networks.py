"""Calls about networks."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.networks import Network, NetworkCreate, NetworkUpdate
from bmi.api.operations import Operation
from bmi.client.transport import Transport


class Networks:
    """L2 segments with a boot service on them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: NetworkCreate) -> Operation:
        """Start making a network."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["networks"], Operation, body=body)

    def list(self, *, limit: int | None = None) -> Iterator[Network]:
        """Go through the networks."""
        query = {"project": self._transport.project}
        return self._transport.items(["networks"], Network, query=query, limit=limit)

    def get(self, network: str | UUID) -> Network:
        """Return a network by name or id."""
        query = {"project": self._transport.project}
        return self._transport.call("GET", ["networks", network], Network, query=query)

    def update(self, network: str | UUID, request: NetworkUpdate) -> Operation:
        """Start changing what a network's nodes are told."""
        query = {"project": self._transport.project}
        return self._transport.call("PATCH", ["networks", network], Operation, query=query, body=request)

    def delete(self, network: str | UUID) -> Operation:
        """Start removing a network."""
        query = {"project": self._transport.project}
        return self._transport.call("DELETE", ["networks", network], Operation, query=query)
