"""Legs: the gateway's own presence on a network, where its DHCP, targets and boot scripts listen."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Address, IPv6Interface
from typing import Protocol
from uuid import UUID

from bmi.drivers import Outcome
from bmi.drivers.switch import VLANS
from bmi.errors import LegError


@dataclass(frozen=True)
class Leg:
    """An interface on a network's VLAN, in a network namespace of its own."""

    network: UUID
    vlan: int
    address: IPv4Interface
    namespace: str
    interface: str
    also: frozenset[IPv4Interface] = frozenset()
    """Addresses of other gateways that this one acts for."""
    complete: bool = True
    """Whether all of it is there. What is missing of a half-made leg shows as VLAN 0 and address 0.0.0.0/0;
    `up` completes it, `down` removes it."""

    @property
    def addresses(self) -> frozenset[IPv4Interface]:
        """All of its IPv4 addresses."""
        return self.also | {self.address}

    @property
    def address6(self) -> IPv6Interface:
        """The leg's IPv6 address, which router advertisements come from."""
        return address6(self.network, self.address)


def address6(network: UUID, address: IPv4Interface) -> IPv6Interface:
    """Return the IPv6 address of a gateway's leg on a network: unique local (RFC 4193), made from both.

    iPXE looks for an IPv6 router before it goes on, for 13 seconds if nobody answers.
    """
    prefix = b"\xfd" + network.bytes[-7:]
    return IPv6Interface((IPv6Address(prefix + bytes(4) + address.ip.packed), 64))


def require_vlan(vlan: int) -> None:
    """Refuse what is no VLAN; every driver's `up` does before anything else.

    Raises:
        LegError: It is none.
    """
    if vlan not in VLANS:
        raise LegError(f"{vlan} is not the id of a VLAN", next_step=f"use {VLANS[0]} to {VLANS[-1]}")


class Legs(Protocol):
    """What every leg driver can do. All verbs raise `LegError`."""

    def up(
        self,
        network: UUID,
        vlan: int,
        address: IPv4Interface,
        *,
        also: Collection[IPv4Interface] = (),
        lease: int | None = None,
    ) -> Leg:
        """Make the gateway's leg on a network, or make one that is there equal to this.

        Args:
            network: The network.
            vlan: Its VLAN; frames of it are untagged on the leg.
            address: The leg's address on it, with the prefix length.
            also: Addresses of other gateways that this one acts for. One that is new is looked for on the network
                first, and not taken from a host that answers for it.
            lease: Seconds after which the addresses that this call adds go away by themselves, unless they are
                renewed; they stay if None.

        Raises:
            AddressTaken: Another host answers for one of `also`. The rest of the leg is as it should be.
        """

    def renew(self, lease: int | None) -> None:
        """Let the addresses of all legs stay for a time from now on.

        So a gateway that has died has no addresses any more, and another one can have them without asking.

        Args:
            lease: Seconds until they go away by themselves; they stay if None.
        """

    def down(self, network: UUID) -> Outcome:
        """Remove the leg on a network, with its namespace.

        What still runs inside is not ended: its owners stop their daemons first.
        """

    def legs(self) -> Iterable[Leg]:
        """List the legs of this installation that really exist, half-made ones too."""

    def mtus(self, network: UUID) -> Mapping[str, int]:
        """Say how many bytes a frame may carry at each end of a leg, by the end's name; empty if there is none."""

    def close(self) -> None:
        """Let go of connections."""
