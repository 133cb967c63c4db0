"""What Cisco's switches and those with a command line like theirs have in common: every port is a trunk.

A trunk whose list is empty carries nothing, whatever its native VLAN, so a port is isolated in one command, at
once, with its link up. Access mode is never used: there is no access port without a VLAN.
"""

from collections.abc import Sequence

from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.dialects import Dialect, Found, pieces, spare


class Trunks(Dialect):
    """A switch whose ports are trunks with a list of VLANs."""

    def make_vlan(self, vlan: int) -> Sequence[str]:
        """See `Dialect`."""
        return [f"vlan {vlan}", "exit"]

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`. The list is emptied before the port becomes a trunk: by default it has every VLAN."""
        return [f"interface {port}", "switchport trunk allowed vlan none", "switchport mode trunk", "exit"]

    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """See `Dialect`."""
        first, *others = pieces(vlans.ids)
        return [
            f"interface {port}",
            f"switchport trunk native vlan {spare(vlans)}",
            f"switchport trunk allowed vlan {first}",
            *(f"switchport trunk allowed vlan add {more}" for more in others),
            "exit",
        ]
