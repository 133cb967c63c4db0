"""Juniper Junos with the Enhanced Layer 2 Software (EX, QFX): what is set takes effect at a commit, all of it.

The candidate is a private one, so that nothing is committed that somebody else has not finished yet.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    EVERY,
    Dialect,
    Found,
    Reading,
    Unreadable,
    numbers,
    readable,
    trunk,
    unusable,
)

_TERSE = re.compile(r"^([a-z]{2}-\d+/\d+/\d+(?::\d)?) +(?:up|down) +(up|down)\b", re.MULTILINE)
_SET = re.compile(r"^(set|deactivate) interfaces (\S+) ?(.*)$", re.MULTILINE)
_VLAN = re.compile(r"^set vlans (\S+) vlan-id (\d{1,4})\s*$", re.MULTILINE)
_SWITCHING = "unit 0 family ethernet-switching"


class JuniperJunos(Dialect):
    """See `Dialect`."""

    name = "juniper_junos"
    title = "Juniper Junos (ELS)"
    device_type = "juniper_junos"
    port_name = re.compile(r"(ge|mge|xe|et)-\d+/\d+/\d+(:\d)?")
    enables = False
    enter = ("configure private",)
    leave = ("exit configuration-mode",)
    commit = ("commit",)
    discard = ("rollback 0",)
    questions = (
        "show interfaces terse | no-more",
        "show configuration interfaces | display set | no-more",
        "show configuration vlans | display set | no-more",
    )
    refusal = re.compile(
        r"^\s*(?:error:|unknown command|syntax error|missing argument|invalid \w+|permission denied|"
        r"configuration check-out failed|commit failed)[^\n]*",
        re.IGNORECASE | re.MULTILINE,
    )

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        terse, interfaces, vlans = answers
        if not (links := dict(_TERSE.findall(terse))):
            raise Unreadable("a list of interfaces")
        ids = dict(_VLAN.findall(vlans))
        lines: defaultdict[str, list[str]] = defaultdict(list)
        for verb, port, words in _SET.findall(interfaces):
            lines[port].append(f"{verb} {words.strip()}")
        ranged = frozenset(_ranged(lines["interface-range"]))
        return Reading(
            {
                port: _port(lines[port], ids, ranged=port in ranged, link=link == "up")
                for port, link in links.items()
            },
            numbers(",".join(ids.values())),
        )

    def make_vlan(self, vlan: int) -> Sequence[str]:
        """See `Dialect`."""
        return [f"set vlans bmi-{vlan} vlan-id {vlan}"]

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`. A port without the family switches nothing."""
        return [
            f"delete interfaces {port} {_SWITCHING}",
            f"delete interfaces {port} native-vlan-id",
        ]

    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """See `Dialect`."""
        native = [] if vlans.native is None else [f"set interfaces {port} native-vlan-id {vlans.native}"]
        members = [f"set interfaces {port} {_SWITCHING} vlan members {vlan}" for vlan in sorted(vlans.ids)]
        return [f"set interfaces {port} {_SWITCHING} interface-mode trunk", *native, *members]


DIALECT = JuniperJunos()


def _ranged(lines: Iterable[str]) -> Iterable[str]:
    """Yield the ports of interface ranges; of those that name a range of names, its ends only."""
    for line in lines:
        if match := re.search(r" member(?:-range)? (\S+)(?: to (\S+))?$", line):
            yield from (name.strip('"') for name in match.groups() if name)


@readable
def _port(lines: Iterable[str], ids: Mapping[str, str], *, ranged: bool, link: bool) -> Found:
    mode, native, members = "access", None, frozenset[int]()
    if ranged:
        return unusable("it gets its settings from an interface-range", link)
    for line in lines:
        if "apply-groups" in line or line.startswith("deactivate "):
            return unusable("parts of its settings come from a group, or are inactive", link)
        if re.match(r"set unit \d+ family (?!ethernet-switching)", line):
            return unusable("it is a routed port", link)
        if match := re.fullmatch(r"set native-vlan-id (\d{1,4})", line):
            native = int(match[1])
        elif match := re.fullmatch(rf"set {_SWITCHING} interface-mode (\S+)", line):
            mode = match[1]
        elif match := re.fullmatch(rf"set {_SWITCHING} vlan members (\S+)", line):
            members |= _members(match[1], ids)
    if mode == "access":
        # An access port has one VLAN; the switch's default one if none is named, but only with the family.
        switching = any(line.startswith(f"set {_SWITCHING}") for line in lines)
        return Found(PortVlans(min(members, default=1)) if switching else ISOLATED, link=link)
    return Found(trunk(native or 0, members), link=link)


def _members(word: str, ids: Mapping[str, str]) -> frozenset[int]:
    """Read what stands for VLANs: a number, a range, a name, or all."""
    if word == "all":
        return EVERY
    return numbers(ids.get(word, word))
