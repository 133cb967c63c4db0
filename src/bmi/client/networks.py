"""Calls about networks."""

import builtins
from collections.abc import Iterator
from uuid import UUID

from bmi.api.networks import Network, NetworkCreate, NetworkShare, NetworkUpdate
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

    def shares(self, network: str | UUID) -> builtins.list[NetworkShare]:
        """Return the projects that a network is shared with."""
        path = ["networks", network, "shares"]
        return self._transport.page(path, NetworkShare, query=self._query).items

    def share(self, network: str | UUID, project: str | UUID) -> NetworkShare:
        """Let another project attach its nodes to a network."""
        path = ["networks", network, "shares", project]
        return self._transport.call("PUT", path, NetworkShare, query=self._query)

    def unshare(self, network: str | UUID, project: str | UUID) -> None:
        """Let a project attach no more nodes to a network; refused while one of its nodes is on it."""
        self._transport.done("DELETE", ["networks", network, "shares", project], query=self._query)

    def publish(self, network: str | UUID) -> Network:
        """Let every project attach its nodes to a network."""
        return self._transport.call("PUT", ["networks", network, "public"], Network, query=self._query)

    def withdraw(self, network: str | UUID) -> Network:
        """Let only those attach nodes to a network with whom it is shared."""
        return self._transport.call("DELETE", ["networks", network, "public"], Network, query=self._query)

    @property
    def _query(self) -> dict[str, str | None]:
        return {"project": self._transport.project}
