"""NVIDIA Cumulus Linux with NVUE: what is set takes effect when it is applied, all of it."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    Found,
    Reading,
    Unreadable,
    listed,
    numbers,
    readable,
    trunk,
    unusable,
)
from bmi.drivers.switch.netmiko.dialects.answers import inside, load_list
from bmi.drivers.switch.netmiko.dialects.shell import Shell
from bmi.drivers.switch.netmiko.ports import names

_BRIDGE = "br_default"


class CumulusNvue(Shell):
    """See `Dialect`. `cat` keeps the pager away."""

    name = "cumulus_nvue"
    title = "Cumulus Linux (NVUE)"
    device_type = "cumulus_linux"
    port_name = re.compile(r"swp\d+(s\d+)?")
    commit = ("nv config apply -y",)
    discard = ("nv config detach",)
    save = ("nv config save",)
    questions = ("ls /sys/class/net | cat", "nv config show -o json | cat")

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        there = [name for name in answers[0].split() if self.port_name.fullmatch(name)]
        if not there:
            raise Unreadable("a list of interfaces")
        settings: dict[str, Any] = {}
        for part in load_list(answers[1]):
            settings |= inside(part, "set")
        bridge = inside(settings, "bridge", "domain", _BRIDGE)
        known = _vlans(bridge)
        native = bridge.get("untagged", 1)
        ports: dict[str, Found] = {}
        for pattern, settings_of in inside(settings, "interface").items():
            for name in _names(pattern):
                ports[name] = _port(settings_of, known=known, native=native)
        return Reading({name: ports.get(name, Found(PortVlans())) for name in there}, known)

    def make_vlan(self, vlan: int) -> Sequence[str]:
        """See `Dialect`."""
        return [f"nv set bridge domain {_BRIDGE} vlan {vlan}"]

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`. A port that is in no bridge switches nothing."""
        return [f"nv unset interface {port} bridge domain {_BRIDGE}"]

    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """See `Dialect`."""
        domain = f"nv set interface {port} bridge domain {_BRIDGE}"
        native = "none" if vlans.native is None else vlans.native
        return [f"{domain} untagged {native}", f"{domain} vlan {listed(vlans.ids)}"]


DIALECT = CumulusNvue()


def _names(pattern: str) -> list[str]:
    """Return the interfaces of a key such as swp1-4,7: NVUE shows those together that are set alike."""
    try:
        return [name for part in pattern.split(",") for name in names(part)]
    except ValueError as error:
        raise Unreadable(str(error)) from None


def _vlans(settings: Mapping[str, Any]) -> frozenset[int]:
    return numbers(",".join(map(str, inside(settings, "vlan"))))


@readable
def _port(settings: object, *, known: frozenset[int], native: object) -> Found:
    if not isinstance(settings, dict) or not inside(settings, "bridge", "domain"):
        return Found(PortVlans())
    domains = inside(settings, "bridge", "domain")
    if list(domains) != [_BRIDGE]:
        return unusable(f"it is in another bridge than {_BRIDGE}")
    member = inside(domains, _BRIDGE)
    if "access" in member:
        return Found(PortVlans(_number(member["access"])))
    # What is not set for the port is the bridge's: its VLANs, and its untagged one.
    allowed = _vlans(member) if member.get("vlan") else known
    untagged = member.get("untagged", native)
    return Found(PortVlans(None, allowed) if untagged == "none" else trunk(_number(untagged), allowed))


def _number(value: object) -> int:
    found = numbers(str(value))
    if len(found) != 1:
        raise Unreadable(f"one VLAN, not {str(value)[:40]!r}")
    return min(found)
