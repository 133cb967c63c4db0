"""Calls about nodes."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.common import Page
from bmi.api.inventory import NodeBatch, NodeChange, NodesTaken
from bmi.api.nodes import (
    Allocate,
    Attach,
    Deprovision,
    Detach,
    ImportedNode,
    Node,
    NodeCreate,
    NodeImport,
    NodeState,
    Power,
    PowerRequest,
    PowerSaid,
    Provision,
    Reset,
)
from bmi.api.operations import Event, Operation
from bmi.client import history
from bmi.client.transport import Transport


class Nodes:
    """Physical servers."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def register(self, request: NodeCreate) -> Node:
        """Make a server known."""
        return self._transport.call("POST", ["nodes"], Node, body=request)

    def import_(self, project: str | UUID, *, dry_run: bool = False) -> Iterator[ImportedNode]:
        """Take over the nodes that the site's inventory gives to a project, one after the other.

        Args:
            project: BMI's project.
            dry_run: Only say what would change.
        """
        cursor: str | None = None
        while True:
            body = NodeImport(project=str(project), dry_run=dry_run, cursor=cursor)
            # The inventory is asked for each node.
            page = self._transport.call(
                "POST", ["nodes", "import"], Page[ImportedNode], body=body, patience=120
            )
            yield from page.items
            if page.next is None or page.next == cursor:
                return
            cursor = page.next

    def take_in(self, request: NodeBatch) -> NodesTaken:
        """Make many servers known at once, or say what is wrong with them."""
        # The service asks switches, and controllers if it is to.
        path = ["nodes", "batch"]
        return self._transport.call("POST", path, NodesTaken, body=request, patience=240)

    def update(self, node: str | UUID, request: NodeChange) -> Node:
        """Change what is known of a server."""
        return self._transport.call("PATCH", ["nodes", node], Node, body=request, patience=120)

    def list(
        self, *, state: NodeState | None = None, project: str | None = None, limit: int | None = None
    ) -> Iterator[Node]:
        """Go through the nodes.

        Args:
            state: Only those in this state.
            project: Only this project's and the free ones; all that the token may see if None, whatever
                the client's own project.
            limit: How many at the most.
        """
        query = {"state": state, "project": project}
        return self._transport.items(["nodes"], Node, query=query, limit=limit)

    def get(self, node: str | UUID) -> Node:
        """Return a node by name or id."""
        return self._transport.call("GET", ["nodes", node], Node)

    def delete(self, node: str | UUID) -> None:
        """Forget a server; refused while somebody uses it."""
        self._transport.done("DELETE", ["nodes", node])

    def provision(self, node: str | UUID, request: Provision) -> Operation:
        """Start booting a node from a disk, new or existing, on a network."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["nodes", node, "provision"], Operation, body=body)

    def deprovision(self, node: str | UUID, request: Deprovision | None = None) -> Operation:
        """Start giving a node back, clean."""
        body = request or Deprovision()
        return self._transport.call("POST", ["nodes", node, "deprovision"], Operation, body=body)

    def allocate(self, node: str | UUID, request: Allocate | None = None) -> Node:
        """Let a free node belong to a project, without booting it."""
        body = self._transport.in_project(request or Allocate())
        return self._transport.call("POST", ["nodes", node, "allocate"], Node, body=body)

    def release(self, node: str | UUID) -> Operation:
        """Start giving a node back that was allocated, clean."""
        return self._transport.call("POST", ["nodes", node, "release"], Operation)

    def attach(self, node: str | UUID, request: Attach) -> Operation:
        """Start putting a node that runs on a network beside the one that it boots on."""
        return self._transport.call("POST", ["nodes", node, "attach"], Operation, body=request)

    def detach(self, node: str | UUID, request: Detach) -> Operation:
        """Start taking a node off a network that it does not boot on."""
        return self._transport.call("POST", ["nodes", node, "detach"], Operation, body=request)

    def reset(self, node: str | UUID, request: Reset | None = None) -> Operation:
        """Start making a node available, whatever its record says; its disk is kept unless asked otherwise."""
        return self._transport.call("POST", ["nodes", node, "reset"], Operation, body=request or Reset())

    def clean(self, node: str | UUID) -> Operation:
        """Start wiping the local disks of a node that is available; all that is on them is lost."""
        return self._transport.call("POST", ["nodes", node, "clean"], Operation)

    def power(self, node: str | UUID) -> Power:
        """Return whether a node is on."""
        # A management controller takes its time.
        return self._transport.call("GET", ["nodes", node, "power"], Power, patience=60)

    def set_power(self, node: str | UUID, request: PowerRequest) -> Operation:
        """Start switching a node on, off, or off and on."""
        return self._transport.call("POST", ["nodes", node, "power"], Operation, body=request)

    def say_power(self, node: str | UUID, request: PowerSaid) -> Power:
        """Say that somebody has switched a node by hand that has no management controller."""
        return self._transport.call("POST", ["nodes", node, "power", "said"], Power, body=request)

    def events(self, node: str | UUID, *, limit: int | None = None) -> Iterator[Event]:
        """Go through a node's history, oldest first."""
        return self._transport.items(["nodes", node, "events"], Event, limit=limit)

    def follow_events(self, node: str | UUID) -> Iterator[Event]:
        """Go through a node's history, oldest first, and on through what happens from now on, without end."""
        return history.follow(self._transport, ["nodes", node, "events"], over=lambda: False)
