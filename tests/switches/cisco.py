"""Doubles of switches whose ports are trunks: Cisco NX-OS, Cisco IOS, Arista EOS."""

import json
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bmi.drivers.switch import PortVlans
from tests.switches.box import ALL, Box, ModedCli, Rule, listed, numbers, wrapped


@dataclass
class Port:
    mode: str = "trunk"
    access: int = 1
    native: int = 1
    allowed: frozenset[int] = frozenset()

    def carried(self) -> PortVlans:
        if self.mode == "access":
            return PortVlans(self.access)
        return PortVlans(self.native if self.native in self.allowed else None, self.allowed - {self.native})


class CiscoBox(Box):
    cli: type["CiscoCli"]
    enable_secret: str | None = None
    """Where there is one, accounts begin without rights."""

    def __init__(self) -> None:
        super().__init__()
        # As docs/switches.md has them prepared: trunks without VLANs. The uplink carries everything.
        self.settings = {port: Port() for port in self.ports} | {self.uplink: Port(allowed=ALL)}

    def carried(self, port: str) -> PortVlans:
        settings = self.settings[port].carried()
        native = settings.native if settings.native in self.vlans else None
        if port == self.uplink:
            return settings
        return PortVlans(native, frozenset(settings.tagged & self.vlans))

    def login(self) -> "CiscoCli":
        return self.cli(self)


class CiscoCli(ModedCli):
    box: CiscoBox
    host = "tor1"

    def __init__(self, box: CiscoBox) -> None:
        super().__init__(box)
        self.enabled = box.enable_secret is None

    @property
    def prompt(self) -> str:
        modes = {"config": "(config)", "if": "(config-if)", "vlan": "(config-vlan)"}
        return f"{self.host}{modes[self.mode[-1][0]] if self.mode else ''}{'#' if self.enabled else '>'}"

    def rules(self, mode: str) -> Sequence[Rule]:
        if not self.enabled:
            return [
                ("terminal length 0", self.unpaged_said),
                ("terminal width 511", self.width),
                ("enable", self.enable),
            ]
        if mode == "exec":
            return [
                ("terminal length 0", self.unpaged_said),
                ("terminal width 511", self.width),
                ("configure terminal", lambda: self.enter("config")),
                *self.shows(),
            ]
        moves: list[Rule] = [("end", self.end), ("exit", self.leave)]
        if mode == "config":
            return [*moves, (r"vlan (\d+)", self.vlan), (r"interface (\S+)", self.interface)]
        if mode == "if":
            return [
                *moves,
                (r"switchport mode (trunk|access)", self.set_mode),
                (r"switchport access vlan (\d+)", lambda vlan: self.set(access=int(vlan))),
                (r"switchport trunk native vlan (\d+)", lambda vlan: self.set(native=int(vlan))),
                (r"switchport trunk allowed vlan (add )?(\S+)", self.allow),
                (r"switchport nonegotiate", lambda: None),
            ]
        return moves

    @abstractmethod
    def shows(self) -> Sequence[Rule]: ...

    def enable(self) -> None:
        self.secretly = self.take_secret

    def take_secret(self, line: str) -> str:
        self.enabled = line == self.box.enable_secret
        return "" if self.enabled else "% Bad secrets\n\n"

    def unpaged_said(self) -> str | None:
        self.unpaged()
        return None

    def width(self) -> str | None:
        return None

    def vlan(self, number: str) -> str | None:
        if not 1 <= int(number) <= 4094:
            return self.invalid
        self.box.vlans.add(int(number))
        self.enter("vlan", number)
        return None

    def interface(self, name: str) -> str | None:
        if name not in self.box.settings:
            return self.invalid
        self.enter("if", name)
        return None

    @property
    def port(self) -> Port:
        return self.box.settings[self.about()]

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            setattr(self.port, name, value)

    def set_mode(self, mode: str) -> None:
        self.port.mode = mode

    def allow(self, add: str | None, vlans: str) -> str | None:
        self.port.allowed = numbers(vlans) | (self.port.allowed if add else frozenset())
        return None


class NxosCli(CiscoCli):
    banner = "\nUser Access Verification\nCisco Nexus Operating System (NX-OS) Software\n"
    invalid = "                    ^\n% Invalid command at '^' marker.\n"

    @property
    def prompt(self) -> str:
        return f"{super().prompt} "

    def shows(self) -> Sequence[Rule]:
        return [
            ("show running-config interface", self.running),
            (r"show vlan brief \| json", self.vlans),
            ("copy running-config startup-config", self.copied),
        ]

    def running(self) -> str:
        lines = [
            "",
            "!Command: show running-config interface",
            "!Running configuration last done at: Thu Nov 26 10:00:00 2026",
            "",
            "version 10.3(4a) Bios:version 01.08 ",
            "",
            "interface Vlan1",
        ]
        for name, port in self.box.settings.items():
            lines += ["", f"interface {name}", f"  description node behind {name}"]
            if port.mode == "trunk":
                lines.append("  switchport mode trunk")
            if port.access != 1:
                lines.append(f"  switchport access vlan {port.access}")
            if port.native != 1:
                lines.append(f"  switchport trunk native vlan {port.native}")
            if port.allowed != ALL:
                lines.append(f"  switchport trunk allowed vlan {listed(port.allowed) or 'none'}")
            lines.append("  spanning-tree port type edge trunk")
        return "\n".join([*lines, "", "interface mgmt0", "  vrf member management", ""])

    def vlans(self) -> str:
        rows = [
            {
                "vlanshowbr-vlanid": vlan,
                "vlanshowbr-vlanid-utf": str(vlan),
                "vlanshowbr-vlanname": "default" if vlan == 1 else f"VLAN{vlan:04}",
                "vlanshowbr-vlanstate": "active",
                "vlanshowbr-shutstate": "noshutdown",
            }
            for vlan in sorted(self.box.vlans)
        ]
        # Where there is one row only, NX-OS leaves the list out.
        return json.dumps(
            {"TABLE_vlanbriefxbrief": {"ROW_vlanbriefxbrief": rows if len(rows) > 1 else rows[0]}}
        )

    def copied(self) -> str:
        self.save()
        done = "Copy complete, now saving to disk (please wait)...\nCopy complete.\n"
        return f"[########################################] 100%\n{done}"


class NxosBox(CiscoBox):
    ports = tuple(f"Ethernet1/{number}" for number in range(1, 7))
    uplink = "Ethernet1/49"
    cli = NxosCli


class IosCli(CiscoCli):
    def shows(self) -> Sequence[Rule]:
        return [
            ("show interfaces switchport", self.switchport),
            ("show vlan brief", self.brief),
            ("write memory", self.written),
        ]

    def switchport(self) -> str:
        blocks = []
        for name, port in self.box.settings.items():
            vlans = "ALL" if port.allowed == ALL else listed(port.allowed) or "NONE"
            short = name.replace("GigabitEthernet", "Gi").replace("Ten", "Te").replace("TeGi", "Te")
            blocks.append(
                f"Name: {short}\n"
                "Switchport: Enabled\n"
                f"Administrative Mode: {'trunk' if port.mode == 'trunk' else 'static access'}\n"
                f"Operational Mode: {'down' if name.endswith('/2') else 'trunk'}\n"
                "Administrative Trunking Encapsulation: dot1q\n"
                "Negotiation of Trunking: Off\n"
                f"Access Mode VLAN: {self.named(port.access)}\n"
                f"Trunking Native Mode VLAN: {self.named(port.native)}\n"
                "Administrative Native VLAN tagging: enabled\n"
                "Voice VLAN: none\n"
                "Administrative private-vlan host-association: none \n"
                "Operational private-vlan: none\n"
                f"Trunking VLANs Enabled: {wrapped(vlans, width=60, indent='     ')}\n"
                "Pruning VLANs Enabled: 2-1001\n"
                "Capture Mode Disabled\n"
                "Capture VLANs Allowed: ALL\n"
                "\n"
                "Protected: false\n"
                "Appliance trust: none\n"
            )
        return "\n".join(blocks)

    def named(self, vlan: int) -> str:
        if vlan not in self.box.vlans:
            return f"{vlan} (Inactive)"
        return f"{vlan} ({'default' if vlan == 1 else f'VLAN{vlan:04}'})"

    def brief(self) -> str:
        lines = [
            "",
            "VLAN Name                             Status    Ports",
            "---- -------------------------------- --------- -------------------------------",
        ]
        for vlan in sorted(self.box.vlans):
            name = "default" if vlan == 1 else f"VLAN{vlan:04}"
            lines.append(f"{vlan:<4} {name:<32} active    {'Te1/1/3, Te1/1/4' if vlan == 1 else ''}")
        for vlan, name in ((1002, "fddi-default"), (1005, "trnet-default")):
            lines.append(f"{vlan:<4} {name:<32} act/unsup ")
        return "\n".join([*lines, ""])

    def written(self) -> str:
        self.save()
        return "Building configuration...\n[OK]\n"


class IosBox(CiscoBox):
    ports = tuple(f"GigabitEthernet1/0/{number}" for number in range(1, 7))
    uplink = "TenGigabitEthernet1/1/1"
    cli = IosCli


class EosCli(CiscoCli):
    invalid = "% Invalid input\n"

    @property
    def prompt(self) -> str:
        inner = {"if": f"(config-if-Et{self.about()[8:] if self.mode else ''})", "vlan": "(config-vlan-x)"}
        modes = {"config": "(config)", **inner}
        return f"{self.host}{modes[self.mode[-1][0]] if self.mode else ''}#"

    def shows(self) -> Sequence[Rule]:
        return [
            (r"show interfaces switchport \| json", self.switchport),
            (r"show vlan \| json", self.vlans),
            ("write memory", self.written),
        ]

    def unpaged_said(self) -> str:
        self.unpaged()
        return "Pagination disabled.\n"

    def width(self) -> str:
        return "Width set to 511 columns.\n"

    def switchport(self) -> str:
        return json.dumps(
            {
                "switchports": {
                    name: {
                        "enabled": True,
                        "switchportInfo": {
                            "accessVlanId": port.access,
                            "accessVlanName": "default",
                            "dynamicAllowedVlans": {},
                            "dynamicTrunkGroups": [],
                            "macLearning": True,
                            "mode": port.mode,
                            "staticTrunkGroups": [],
                            "tpid": "0x8100",
                            "trunkAllowedVlans": "ALL"
                            if port.allowed == ALL
                            else listed(port.allowed) or "NONE",
                            "trunkingNativeVlanId": port.native,
                            "trunkingNativeVlanName": "default",
                        },
                    }
                    for name, port in self.box.settings.items()
                }
            },
            indent=4,
        )

    def vlans(self) -> str:
        vlans = {
            str(vlan): {"dynamic": False, "interfaces": {}, "name": f"VLAN{vlan:04}", "status": "active"}
            for vlan in sorted(self.box.vlans)
        }
        return json.dumps({"sourceDetail": "", "vlans": vlans}, indent=4)

    def written(self) -> str:
        self.save()
        return "Copy completed successfully.\n"


class EosBox(CiscoBox):
    ports = tuple(f"Ethernet{number}" for number in range(1, 7))
    uplink = "Ethernet49/1"
    cli = EosCli
