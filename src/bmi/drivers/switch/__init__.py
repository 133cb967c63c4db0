"""Switches: which VLANs a node's port carries (IEEE 802.1Q)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from bmi.drivers import Outcome
from bmi.errors import SwitchPortUnknown, VlanInvalid

VLANS = range(1, 4095)
"""Ids that a VLAN can have: 0 stands for none, 4095 is reserved (IEEE 802.1Q, table 9-2)."""

_NAMED = 5  # ports that an error names as examples


@dataclass(frozen=True)
class PortVlans:
    """What a port carries. No VLAN at all isolates it: nothing gets in or out."""

    native: int | None = None
    """VLAN of untagged frames, 1 to 4094. A port that somebody else configured may also show 0."""
    tagged: frozenset[int] = frozenset()

    @property
    def ids(self) -> frozenset[int]:
        """All VLANs, native or tagged."""
        return self.tagged if self.native is None else self.tagged | {self.native}

    def require_valid(self) -> None:
        """Refuse what no port can be set to; every driver does before anything else.

        Raises:
            VlanInvalid: An id is not one of a VLAN, or the native VLAN is also tagged.
        """
        if strange := sorted(self.ids.difference(VLANS)):
            raise VlanInvalid(
                f"{strange[0]} is not the id of a VLAN", next_step=f"use {VLANS[0]} to {VLANS[-1]}"
            )
        if self.native in self.tagged:
            raise VlanInvalid(
                f"VLAN {self.native} cannot be both native and tagged on one port",
                next_step="attach the network one way only",
            )

    def __str__(self) -> str:
        words = [] if self.native is None else [str(self.native)]
        words += [f"{vlan} (tagged)" for vlan in sorted(self.tagged)]
        return ", ".join(words) or "none"


ISOLATED = PortVlans()


@dataclass(frozen=True)
class PortState:
    """What the switch really does with a port."""

    port: str
    vlans: PortVlans
    link: bool | None
    """Whether the other end is up; None if the switch cannot tell."""


class Switch(Protocol):
    """What every switch driver can do. All verbs raise `SwitchError`."""

    def configure(self, port: str, vlans: PortVlans) -> Outcome:
        """Make a port carry exactly these VLANs; returns once the switch forwards that way, read back.

        At no moment does the port carry a VLAN of the old and one of the new setting together.

        Raises:
            SwitchPortUnknown: The switch has no such port.
            VlanInvalid: No port can carry these VLANs.
        """

    def port(self, port: str) -> PortState:
        """Read a port.

        Raises:
            SwitchPortUnknown: The switch has no such port.
        """

    def ports(self) -> Iterable[PortState]:
        """Read every port that a node can be behind."""

    def heard_at(self, mac: str) -> list[str] | None:
        """Name the ports behind which a card was heard of late, those that lead to other switches too.

        Args:
            mac: The card's MAC address.

        Returns:
            None if the switch cannot tell; nothing if it can, and heard nothing.
        """

    def close(self) -> None:
        """Let go of connections."""


def unknown_port(port: str, switch: str, known: Sequence[str]) -> SwitchPortUnknown:
    """Return the error that tells of a port which a switch does not have.

    Args:
        port: The name asked for.
        switch: The switch in words, as in "bridge br0".
        known: Names of the ports that it has.
    """
    some = ", ".join(known[:_NAMED]) + (", ..." if len(known) > _NAMED else "")
    return SwitchPortUnknown(
        f"{switch} has no port {port}", next_step=f"use one of its ports: {some}" if known else "add the port"
    )
