"""Switches: which VLANs a node's port carries (IEEE 802.1Q)."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from bmi.drivers import Outcome


@dataclass(frozen=True)
class PortVlans:
    """What a port carries. No VLAN at all isolates it: nothing gets in or out."""

    native: int | None = None
    """VLAN of untagged frames, 1 to 4094."""
    tagged: frozenset[int] = frozenset()

    def __str__(self) -> str:
        words = [str(self.native)] if self.native else []
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
        """

    def port(self, port: str) -> PortState:
        """Read a port.

        Raises:
            SwitchPortUnknown: The switch has no such port.
        """

    def ports(self) -> Iterable[PortState]:
        """Read every port."""

    def close(self) -> None:
        """Let go of connections."""
