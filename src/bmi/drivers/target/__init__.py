"""Targets: disks and seeds made reachable by one node over iSCSI (RFC 7143)."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Protocol
from uuid import UUID

from bmi.drivers import Outcome
from bmi.drivers.storage import Backing


@dataclass(frozen=True)
class Portal:
    """Where initiators connect: one address, served by one process, for one project on one network."""

    id: UUID
    address: IPv4Address
    port: int
    namespace: str | None = None
    """Network namespace in which the address lives; the host's own if None."""
    peer: IPv4Address | None = None
    """The only address that is let through to it, whatever names and secrets others know; anyone's if None."""

    def __str__(self) -> str:
        return f"{self.address}:{self.port}"


@dataclass(frozen=True)
class Lun:
    """One logical unit of an export. LUN 0 is the target's own controller, so numbers start at 1."""

    number: int
    backing: Backing
    readonly: bool = False


@dataclass(frozen=True)
class Export:
    """What one node may reach, and how it must prove who it is."""

    iqn: str
    initiator: str
    """Name of the only initiator that is let in."""
    username: str
    password: str = field(repr=False)
    """CHAP secret, 12 to 16 characters: what firmware initiators take."""
    luns: tuple[Lun, ...]


@dataclass(frozen=True)
class Session:
    """An initiator that is logged in."""

    iqn: str
    initiator: str
    address: str
    """Empty if it cannot be told."""
    id: int
    """Differs between two log-ins of the same initiator, as long as the server process lives."""


@dataclass(frozen=True)
class Removal:
    """How an export went away."""

    outcome: Outcome
    initiators: tuple[str, ...] = ()
    """Initiators that were still logged in; of a server that hung and could not say, who was connected to it."""
    forced: bool = False
    """Whether the whole server process had to be ended."""


class Target(Protocol):
    """What every target driver can do.

    All verbs raise `TargetError`, and `serve` raises `BadRequest` for a value that cannot be served.
    """

    def serve(self, portal: Portal, exports: Sequence[Export]) -> Outcome:
        """Make sure that a portal serves at least these exports.

        A server that does not run is started and gets all of them before it takes the first log-in: an
        initiator that comes back must never be told that its target does not exist. So pass every export that
        belongs on the portal. Exports that are there and not named stay; one that is there in another form is
        made anew. One that cannot be served does not keep the others from it, and raises after that. A server
        that hangs is ended and started anew. Whoever is not the portal's peer is kept out before the server
        listens, and from then on even if he was connected.

        Raises:
            PortTaken: Another program listens on the portal's address.
        """

    def remove(self, portal: UUID, iqn: str) -> Removal:
        """Take an export away: refuse new log-ins, close sessions, remove, and verify by listing.

        Where that does not help the whole server is ended (`forced`): serve the portal's other exports again.
        """

    def exports(self, portal: UUID) -> Iterable[Export]:
        """List what a portal really serves.

        What cannot be read back is empty: secrets, and the `conf` and `user` of backings in Ceph.
        """

    def sessions(self, portal: UUID) -> Iterable[Session]:
        """List who is logged in at a portal; nobody if it does not run."""

    def portals(self) -> Iterable[UUID]:
        """List the portals of this installation of whose server anything runs; `stop` ends what is left of one."""

    def stop(self, portal: UUID) -> Outcome:
        """End a portal's server, with everything it serves."""

    def end_if_hung(self, portal: UUID) -> bool:
        """End a portal's server that runs and does not answer; returns whether there was one.

        Who asked for `on_exit` is called, as if it had ended by itself.
        """

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        """Call this when a portal's server ended and nobody asked it to, also for servers found running."""

    def close(self) -> None:
        """Let go of connections. Servers go on."""
