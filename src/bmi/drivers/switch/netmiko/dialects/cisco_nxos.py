"""Cisco NX-OS (Nexus)."""

import re
from collections.abc import Iterable, Mapping, Sequence

from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    EVERY,
    Found,
    Reading,
    Unreadable,
    numbers,
    readable,
    sections,
    trunk,
    unusable,
)
from bmi.drivers.switch.netmiko.dialects.answers import each, load
from bmi.drivers.switch.netmiko.dialects.trunks import Trunks

_HEADER = re.compile(r"interface (\S+)")


class CiscoNxos(Trunks):
    """See `Dialect`. The configuration is read: `show interface switchport` does not tell a trunk that is down."""

    name = "cisco_nxos"
    title = "Cisco NX-OS"
    device_type = "cisco_nxos"
    port_name = re.compile(r"Ethernet\d+(/\d+){1,2}")
    save = ("copy running-config startup-config",)
    questions = ("show running-config interface", "show vlan brief | json")

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        configured, known = answers
        ports = {
            match[1]: _port(lines)
            for header, lines in sections(configured).items()
            if (match := _HEADER.fullmatch(header))
        }
        return Reading(ports, _vlans(load(known)))


DIALECT = CiscoNxos()


def _vlans(answer: Mapping[str, object]) -> frozenset[int]:
    table = answer.get("TABLE_vlanbriefxbrief")
    if not isinstance(table, dict):
        raise Unreadable("a table of VLANs")
    return numbers(
        ",".join(str(row.get("vlanshowbr-vlanid-utf")) for row in each(table, "ROW_vlanbriefxbrief"))
    )


@readable
def _port(lines: Iterable[str]) -> Found:
    """Read a port. What stands on its default is not shown: access mode, VLAN 1, and every VLAN on a trunk."""
    mode, access, native, allowed = "access", 1, 1, EVERY
    for line in lines:
        if line == "no switchport":
            return unusable("it is a routed port")
        if match := re.fullmatch(r"switchport mode (\S+)", line):
            mode = match[1]
        elif match := re.fullmatch(r"switchport access vlan (\d{1,4})", line):
            access = int(match[1])
        elif match := re.fullmatch(r"switchport trunk native vlan (\d{1,4})", line):
            native = int(match[1])
        elif match := re.fullmatch(r"switchport trunk allowed vlan (add )?([\d,\-]+|none)", line):
            allowed = numbers(match[2]) | (allowed if match[1] else frozenset())
        elif line.startswith("channel-group "):
            return unusable("it belongs to a port channel")
    if mode == "access":
        return Found(PortVlans(access))
    if mode == "trunk":
        return Found(trunk(native, allowed))
    return unusable(f"it is in mode {mode[:20]}")
