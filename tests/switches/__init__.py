"""Doubles of switches behind a real SSH server, one for each dialect of the driver `netmiko`."""

from tests.switches.aruba import AoscxBox
from tests.switches.box import Box
from tests.switches.cisco import EosBox, IosBox, NxosBox
from tests.switches.dell import Os9Box, Os10Box
from tests.switches.juniper import JunosBox
from tests.switches.linux import CumulusBox, SonicBox

BOXES: dict[str, type[Box]] = {
    "cisco_nxos": NxosBox,
    "cisco_ios": IosBox,
    "arista_eos": EosBox,
    "dell_os9": Os9Box,
    "dell_os10": Os10Box,
    "juniper_junos": JunosBox,
    "cumulus_nvue": CumulusBox,
    "sonic": SonicBox,
    "aruba_aoscx": AoscxBox,
}
