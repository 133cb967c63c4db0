"""Dell OS9 (FTOS, Force10): a VLAN lists its ports, not the other way round.

Every switch port that is in no VLAN belongs to the default VLAN, so a port can be isolated only where that one is
switched off: `default-vlan disable`. Ports must be hybrid (`portmode hybrid`, `switchport`) to have both kinds.
"""

import re
from collections.abc import Sequence

from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.dialects import (
    Dialect,
    Found,
    Reading,
    Unreadable,
    numbers,
    readable,
    unusable,
)

_BLOCK = re.compile(r"^Name: *([^\n]+?) *$", re.MULTILINE)
_MEMBER = re.compile(r"^ *([UT]) +([\d,\- ]+?) *$", re.MULTILINE)
_MORE = re.compile(r",\s*\n\s+(?=\d)")  # a list that goes on in the next line
_VLAN = re.compile(r"^[ *A-Z]*?(\d{1,4}) +(?:Active|Inactive)\b", re.MULTILINE)


class DellOs9(Dialect):
    """See `Dialect`."""

    name = "dell_os9"
    title = "Dell OS9 (Force10)"
    device_type = "dell_os9"
    port_name = re.compile(
        r"(GigabitEthernet|TenGigabitEthernet|twentyFiveGigE|fortyGigE|fiftyGigE|hundredGigE) \d+(/\d+){1,2}"
    )
    enter = ("configure",)
    save = ("write memory",)
    questions = ("show interfaces switchport", "show vlan")

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        if not (vlans := _VLAN.findall(answers[1])):
            raise Unreadable("a table of VLANs")
        _, *words = _BLOCK.split(answers[0])
        names, blocks = words[::2], words[1::2]
        ports = {name: _port(block) for name, block in zip(names, blocks, strict=True)}
        return Reading(ports, numbers(",".join(vlans)))

    def make_vlan(self, vlan: int) -> Sequence[str]:
        """See `Dialect`."""
        return [f"interface vlan {vlan}", "exit"]

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`."""
        native, tagged = found.set_to.native, found.set_to.tagged
        commands = [] if native is None else [f"interface vlan {native}", f"no untagged {port}", "exit"]
        for vlan in sorted(tagged):
            commands += [f"interface vlan {vlan}", f"no tagged {port}", "exit"]
        return commands

    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """See `Dialect`."""
        commands = (
            [] if vlans.native is None else [f"interface vlan {vlans.native}", f"untagged {port}", "exit"]
        )
        for vlan in sorted(vlans.tagged):
            commands += [f"interface vlan {vlan}", f"tagged {port}", "exit"]
        return commands


DIALECT = DellOs9()


@readable
def _port(block: str) -> Found:
    members = {"U": frozenset[int](), "T": frozenset[int]()}
    for kind, vlans in _MEMBER.findall(_MORE.sub(",", block)):
        members[kind] |= numbers(vlans)
    native = next(iter(sorted(members["U"])), None)
    vlans = PortVlans(native, members["T"] - {native})
    hybrid = re.search(r"^802\.1QTagged: *Hybrid\b", block, re.MULTILINE)
    return Found(vlans, set_to=vlans) if hybrid else unusable("it is not a hybrid port")
