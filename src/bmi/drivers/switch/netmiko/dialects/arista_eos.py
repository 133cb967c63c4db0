"""Arista EOS."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.netmiko.dialects import Found, Reading, Unreadable, numbers, readable, trunk, unusable
from bmi.drivers.switch.netmiko.dialects.answers import inside, load, number
from bmi.drivers.switch.netmiko.dialects.trunks import Trunks


class AristaEos(Trunks):
    """See `Dialect`."""

    name = "arista_eos"
    title = "Arista EOS"
    device_type = "arista_eos"
    port_name = re.compile(r"Ethernet\d+(/\d+){0,2}")
    save = ("write memory",)
    questions = ("show interfaces switchport | json", "show vlan | json")

    def read(self, answers: Sequence[str]) -> Reading:
        """See `Dialect`."""
        ports, vlans = load(answers[0]), load(answers[1])
        if not isinstance(ports.get("switchports"), dict) or not isinstance(vlans.get("vlans"), dict):
            raise Unreadable("objects 'switchports' and 'vlans'")
        return Reading(
            {str(port): _port(inside(ports, "switchports", port)) for port in ports["switchports"]},
            numbers(",".join(map(str, vlans["vlans"]))),
        )


DIALECT = AristaEos()


@readable
def _port(answer: Mapping[str, Any]) -> Found:
    info = inside(answer, "switchportInfo")
    mode = str(info.get("mode"))
    if answer.get("enabled") is not True or mode == "routed":
        return unusable("it is a routed port, or belongs to a port channel")
    if mode == "access":
        return Found(PortVlans(number(info, "accessVlanId")))
    if mode == "trunk":
        return Found(trunk(number(info, "trunkingNativeVlanId"), numbers(str(info.get("trunkAllowedVlans")))))
    return unusable(f"it is in mode {mode[:30]}")
