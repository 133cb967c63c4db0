"""SONiC (the community's): ports join VLANs one by one, with `config`; its database is read as JSON."""

import re
from collections import defaultdict
from collections.abc import Sequence

from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.dialects import Found, Reading, Unreadable, numbers, readable, unusable
from bmi.drivers.switch.netmiko.dialects.answers import inside, load
from bmi.drivers.switch.netmiko.dialects.shell import Shell

_KEY = re.compile(r"Vlan(\d{1,4})\|(\S+)")


class Sonic(Shell):
    """See `Dialect`. A port that is in no VLAN is a routed one, and switches nothing."""

    name = "sonic"
    title = "SONiC"
    device_type = "linux"
    port_name = re.compile(r"Ethernet\d+")
    save = ("sudo -n config save -y",)
    questions = tuple(
        f"sudo -n sonic-cfggen -d --var-json {table} | cat"
        for table in ("PORT", "VLAN", "VLAN_MEMBER", "INTERFACE")
    )

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        # A table without rows is not printed at all.
        ports, vlans, members, routed = (load(answer if answer.strip() else "{}") for answer in answers)
        if not ports:
            raise Unreadable("a table of ports")
        native: dict[str, int] = {}
        tagged: defaultdict[str, set[int]] = defaultdict(set)
        for key in members:
            if not (match := _KEY.fullmatch(key)):
                raise Unreadable(f"members of VLANs, not {key[:40]!r}")
            vlan = min(numbers(match[1]), default=0)
            if inside(members, key).get("tagging_mode") == "untagged":
                native[match[2]] = vlan
            else:
                tagged[match[2]].add(vlan)
        with_addresses = {key.partition("|")[0] for key in routed if "|" in key}
        return Reading(
            {
                port: _port(native.get(port), frozenset(tagged[port]), routed=port in with_addresses)
                for port in ports
            },
            numbers(",".join(vlan.removeprefix("Vlan") for vlan in vlans)),
        )

    def make_vlan(self, vlan: int) -> Sequence[str]:
        """See `Dialect`."""
        return [f"sudo -n config vlan add {vlan}"]

    def strip(self, port: str, found: Found) -> Sequence[str]:
        """See `Dialect`."""
        return [f"sudo -n config vlan member del {vlan} {port}" for vlan in sorted(found.set_to.ids)]

    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """See `Dialect`."""
        native = [] if vlans.native is None else [f"sudo -n config vlan member add -u {vlans.native} {port}"]
        return [*native, *(f"sudo -n config vlan member add {vlan} {port}" for vlan in sorted(vlans.tagged))]


DIALECT = Sonic()


@readable
def _port(native: int | None, tagged: frozenset[int], *, routed: bool) -> Found:
    vlans = PortVlans(native, tagged - {native})
    return unusable("it has an address: it is a routed port") if routed else Found(vlans, set_to=vlans)
