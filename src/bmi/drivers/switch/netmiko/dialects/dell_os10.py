"""Dell SmartFabric OS10: a port always has an untagged VLAN, so one that carries nothing is shut."""

import re
from collections.abc import Iterable, Sequence

from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    Dialect,
    Found,
    Reading,
    Unreadable,
    listed,
    numbers,
    pieces,
    readable,
    sections,
    unusable,
)

_PORT = re.compile(r"interface (ethernet\S+)")
_VLAN = re.compile(r"interface vlan ?(\d{1,4})")


class DellOs10(Dialect):
    """See `Dialect`."""

    name = "dell_os10"
    title = "Dell SmartFabric OS10"
    device_type = "dell_os10"
    port_name = re.compile(r"ethernet\d+/\d+/\d+(:\d)?")
    save = ("copy running-configuration startup-configuration",)
    questions = ("show running-configuration",)

    def lacks(self, vlans: PortVlans) -> str:
        """See `Dialect`."""
        if vlans.tagged and vlans.native is None:
            return "its ports always have a VLAN for untagged frames"
        return ""

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        blocks = sections(answers[0])
        vlans = [match[1] for header in blocks if (match := _VLAN.fullmatch(header))]
        if not vlans:
            raise Unreadable("the configuration, with at least one VLAN")
        return Reading(
            {
                match[1]: _port(lines)
                for header, lines in blocks.items()
                if (match := _PORT.fullmatch(header))
            },
            numbers(",".join(vlans)),
        )

    def make_vlan(self, vlan: int) -> Sequence[str]:
        """See `Dialect`."""
        return [f"interface vlan {vlan}", "exit"]

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`. The VLANs go too, so that nobody gets into them who opens the port by hand."""
        tagged = found.set_to.tagged
        return [
            f"interface {port}",
            "shutdown",
            *([f"no switchport trunk allowed vlan {listed(tagged)}"] if tagged else []),
            "switchport access vlan 1",
            "exit",
        ]

    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """See `Dialect`."""
        return [
            f"interface {port}",
            "switchport mode trunk",
            f"switchport access vlan {vlans.native}",
            *(f"switchport trunk allowed vlan {piece}" for piece in pieces(vlans.tagged)),
            "no shutdown",
            "exit",
        ]


DIALECT = DellOs10()


@readable
def _port(lines: Iterable[str]) -> Found:
    mode, native, tagged, shut = "access", 1, frozenset[int](), False
    for line in lines:
        if line == "no switchport":
            return unusable("it is a routed port, or belongs to a port channel")
        if line in ("shutdown", "no shutdown"):
            shut = line == "shutdown"
        elif match := re.fullmatch(r"switchport mode (\S+)", line):
            mode = match[1]
        elif match := re.fullmatch(r"switchport access vlan (\d{1,4})", line):
            native = int(match[1])
        elif match := re.fullmatch(r"switchport trunk allowed vlan ([\d,\-]+)", line):
            tagged |= numbers(match[1])
    vlans = PortVlans(native, tagged - {native} if mode == "trunk" else frozenset())
    set_to = PortVlans(native, tagged - {native})
    return Found(ISOLATED if shut else vlans, set_to=set_to)
