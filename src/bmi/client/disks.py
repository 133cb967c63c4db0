"""Calls about disks and their snapshots."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.disks import Disk, DiskAdopt, DiskCreate, Grow, Move, RollBack, SnapshotCreate
from bmi.api.operations import Operation
from bmi.client.transport import Transport


class Disks:
    """Writable copy-on-write clones of images."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: DiskCreate) -> Operation:
        """Start cloning a disk from an image."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["disks"], Operation, body=body)

    def adopt(self, request: DiskAdopt) -> Operation:
        """Start making a disk of what lies in the store already."""
        body = self._transport.in_project(request)
        return self._transport.call("POST", ["disks", "adopt"], Operation, body=body)

    def list(self, *, limit: int | None = None) -> Iterator[Disk]:
        """Go through the disks."""
        query = {"project": self._transport.project}
        return self._transport.items(["disks"], Disk, query=query, limit=limit)

    def get(self, disk: str | UUID) -> Disk:
        """Return a disk by name or id."""
        query = {"project": self._transport.project}
        return self._transport.call("GET", ["disks", disk], Disk, query=query)

    def snapshot(self, disk: str | UUID, request: SnapshotCreate) -> Operation:
        """Start making an image from a disk as it is now; the result names the image."""
        query = {"project": self._transport.project}
        return self._transport.call("POST", ["disks", disk, "snapshot"], Operation, body=request, query=query)

    def flatten(self, disk: str | UUID) -> Operation:
        """Start making a disk independent of the image that it was cloned from."""
        query = {"project": self._transport.project}
        return self._transport.call("POST", ["disks", disk, "flatten"], Operation, query=query)

    def roll_back(self, disk: str | UUID, request: RollBack) -> Operation:
        """Start making a disk what an image is; a node that runs from it is switched off and on."""
        query = {"project": self._transport.project}
        return self._transport.call("POST", ["disks", disk, "rollback"], Operation, body=request, query=query)

    def grow(self, disk: str | UUID, request: Grow) -> Operation:
        """Start making a disk larger."""
        query = {"project": self._transport.project}
        return self._transport.call("POST", ["disks", disk, "grow"], Operation, body=request, query=query)

    def move(self, disk: str | UUID, request: Move) -> Operation:
        """Start having another node boot from a disk."""
        query = {"project": self._transport.project}
        return self._transport.call("POST", ["disks", disk, "move"], Operation, body=request, query=query)

    def delete(self, disk: str | UUID) -> Operation:
        """Start removing a disk and what is on it."""
        query = {"project": self._transport.project}
        return self._transport.call("DELETE", ["disks", disk], Operation, query=query)
