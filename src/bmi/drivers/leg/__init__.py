"""Legs: the gateway's own presence on a network, where its DHCP, targets and boot scripts listen."""

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Interface
from typing import Protocol
from uuid import UUID

from bmi.drivers import Outcome


@dataclass(frozen=True)
class Leg:
    """An interface on a network's VLAN, in a network namespace of its own."""

    network: UUID
    vlan: int
    address: IPv4Interface
    namespace: str
    interface: str


class Legs(Protocol):
    """What every leg driver can do. All verbs raise `LegError`."""

    def up(self, network: UUID, vlan: int, address: IPv4Interface) -> Leg:
        """Make the gateway's leg on a network, or complete one that is half there."""

    def down(self, network: UUID) -> Outcome:
        """Remove the leg on a network, with its namespace.

        What still runs inside is not ended: its owners stop their daemons first.
        """

    def legs(self) -> Iterable[Leg]:
        """List the legs of this installation that really exist."""

    def close(self) -> None:
        """Let go of connections."""
