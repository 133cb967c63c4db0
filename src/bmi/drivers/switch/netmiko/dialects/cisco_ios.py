"""Cisco IOS and IOS-XE (Catalyst)."""

import re
from collections.abc import Sequence

from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    EVERY,
    Found,
    Reading,
    Unreadable,
    numbers,
    readable,
    trunk,
    unusable,
)
from bmi.drivers.switch.netmiko.dialects.trunks import Trunks

_LONG = {
    "Fa": "FastEthernet",
    "Gi": "GigabitEthernet",
    "Tw": "TwoGigabitEthernet",
    "Fi": "FiveGigabitEthernet",
    "Te": "TenGigabitEthernet",
    "Twe": "TwentyFiveGigE",
    "Fo": "FortyGigabitEthernet",
    "Hu": "HundredGigE",
}
"""Names of ports as the configuration has them, by how `show interfaces switchport` shortens them."""

_LIST = "trunking vlans enabled"
_BLOCK = re.compile(r"^Name: *", re.MULTILINE)
_LINE = re.compile(r"^(?P<name>[^:\n]+): *(?P<value>[^\n]*(?:\n *\d[\d,\- ]*)*)$", re.MULTILINE)
_VLAN = re.compile(r"^(\d{1,4}) +\S+ +active\b", re.MULTILINE)  # not those of Token Ring and FDDI: act/unsup


class CiscoIos(Trunks):
    """See `Dialect`."""

    name = "cisco_ios"
    title = "Cisco IOS and IOS-XE"
    device_type = "cisco_ios"
    port_name = re.compile(rf"({'|'.join(_LONG.values())})\d+(/\d+){{0,2}}")
    save = ("write memory",)
    questions = ("show interfaces switchport", "show vlan brief")

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`. A node must not be able to change the port's mode by talking DTP."""
        *commands, leave = super().strip(port, found)
        return [*commands, "switchport nonegotiate", leave]

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        blocks = _BLOCK.split(answers[0])[1:]
        if not (vlans := _VLAN.findall(answers[1])):
            raise Unreadable("a table of VLANs")
        return Reading(dict(map(_port, blocks)), numbers(",".join(vlans)))


DIALECT = CiscoIos()


def _port(block: str) -> tuple[str, Found]:
    short, _, rest = block.partition("\n")
    values = {match["name"].strip().lower(): match["value"].strip() for match in _LINE.finditer(rest)}
    letters, digits = re.match(r"([A-Za-z]*)(\S*)", short.strip()).groups()  # type: ignore[union-attr] # fits all
    return _LONG.get(letters, letters) + digits, _found(values)


@readable
def _found(values: dict[str, str]) -> Found:
    if values.get("switchport") != "Enabled":
        return unusable("it is a routed port")
    link = not values.get("operational mode", "").startswith("down")
    mode = values.get("administrative mode", "")
    if mode == "static access":
        return Found(PortVlans(_first(values, "access mode vlan")), link=link)
    # One that negotiates its mode can become a trunk at any time: it counts as one.
    vlans = trunk(_first(values, "trunking native mode vlan"), _allowed(values))
    if mode == "trunk" or mode.startswith("dynamic"):
        return Found(vlans, link=link)
    return unusable(f"it is in mode {mode[:30]}", link)


def _allowed(values: dict[str, str]) -> frozenset[int]:
    return numbers(values[_LIST]) if _LIST in values else EVERY


def _first(values: dict[str, str], name: str) -> int:
    """Return the VLAN of a line such as `Access Mode VLAN: 101 (VLAN0101)`."""
    match = re.match(r"(\d{1,4})\b", values.get(name, ""))
    if match is None:
        raise Unreadable(f"a VLAN after {name!r}")
    return int(match[1])
