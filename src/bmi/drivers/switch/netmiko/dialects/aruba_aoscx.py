"""Aruba AOS-CX: a port always has a VLAN, so one that carries nothing is shut."""

import re
from collections.abc import Iterable, Sequence

from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    EVERY,
    Dialect,
    Found,
    Reading,
    Unreadable,
    numbers,
    pieces,
    readable,
    sections,
    spare,
    trunk,
    unusable,
)

_PORT = re.compile(r"interface (\d+/\d+/\d+(?::\d)?)")
_VLAN = re.compile(r"vlan ([\d,\-]+)")
_BRIEF = re.compile(
    r"^ *(?P<port>\d+/\d+/\d+(?::\d)?) +(?P<native>\d+|--) +(?P<mode>\S+) +.*? (?P<enabled>yes|no) +"
    r"(?P<status>up|down)\b",
    re.MULTILINE,
)


class ArubaAoscx(Dialect):
    """See `Dialect`. Not every model's configuration shows whether a port is shut; the overview always does.

    It is asked before and after: a port that somebody else changes meanwhile is shut in one of them, and what the
    configuration has of it then is not in force.
    """

    name = "aruba_aoscx"
    title = "Aruba AOS-CX"
    device_type = "aruba_aoscx"
    port_name = re.compile(r"\d+/\d+/\d+(:\d)?")
    save = ("write memory",)
    questions = ("show interface brief", "show running-config", "show interface brief")

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        before, configured, after = answers
        blocks = sections(configured)
        shut = {match["port"] for match in _BRIEF.finditer(before) if match["enabled"] == "no"}
        lines = {match[1]: block for header, block in blocks.items() if (match := _PORT.fullmatch(header))}
        vlans = [match[1] for header in blocks if (match := _VLAN.fullmatch(header))]
        if not vlans:
            raise Unreadable("the configuration, with at least one VLAN")
        return Reading(
            {
                match["port"]: _port(
                    lines.get(match["port"], []),
                    shut=match["enabled"] == "no" or match["port"] in shut,
                    routed=match["mode"] == "routed",
                    link=match["status"] == "up",
                )
                for match in _BRIEF.finditer(after)
            },
            numbers(",".join(vlans)),
        )

    def make_vlan(self, vlan: int) -> Sequence[str]:
        """See `Dialect`."""
        return [f"vlan {vlan}", "exit"]

    def needed(self, vlans: PortVlans) -> frozenset[int]:
        """See `Dialect`. Its native VLAN must be there even where the trunk does not carry it."""
        return vlans.ids | {spare(vlans)}

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`. As an access port it forgets its list, to which a trunk would only add."""
        return [f"interface {port}", "shutdown", "vlan access 1", "exit"]

    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """See `Dialect`."""
        return [
            f"interface {port}",
            f"vlan trunk native {spare(vlans)}",
            *(f"vlan trunk allowed {piece}" for piece in pieces(vlans.ids)),
            "no shutdown",
            "exit",
        ]


DIALECT = ArubaAoscx()


@readable
def _port(lines: Iterable[str], *, shut: bool, routed: bool, link: bool) -> Found:
    if routed:
        return unusable("it is a routed port", link)
    access, native, tag, allowed = 1, 0, False, frozenset[int]()
    for line in lines:
        if match := re.fullmatch(r"vlan access (\d{1,4})", line):
            access = int(match[1])
        elif match := re.fullmatch(r"vlan trunk native (\d{1,4})( tag)?", line):
            native, tag = int(match[1]), bool(match[2])
        elif match := re.fullmatch(r"vlan trunk allowed ([\d,\-]+|all)", line):
            allowed |= numbers(match[1])
        elif line.startswith("lag "):
            return unusable("it belongs to a link aggregation group", link)
    # A trunk without a list carries every VLAN.
    allowed = allowed or (EVERY if native else allowed)
    set_to = trunk(native or 1, allowed) if allowed else PortVlans(access)
    if tag:
        set_to = PortVlans(None, allowed)
    return Found(ISOLATED if shut else set_to, set_to=set_to, link=link)
