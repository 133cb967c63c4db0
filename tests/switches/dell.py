"""Doubles of Dell's switches: OS9, where a VLAN lists its ports, and OS10, where a port always has a VLAN."""

from collections.abc import Sequence
from dataclasses import dataclass

from bmi.drivers.switch import ISOLATED, PortVlans
from tests.switches.box import Box, ModedCli, Rule, listed, numbers


class Os9Box(Box):
    """Prepared: hybrid ports, and `default-vlan disable`."""

    ports = tuple(f"TenGigabitEthernet 0/{number}" for number in range(1, 7))
    uplink = "fortyGigE 0/48"

    def __init__(self) -> None:
        super().__init__()
        self.default_vlan = False
        self.untagged: dict[str, int] = {}
        self.tagged: dict[str, set[int]] = {port: set() for port in self.ports} | {
            self.uplink: set(range(2, 4095))
        }

    def carried(self, port: str) -> PortVlans:
        native = self.untagged.get(port, 1 if self.default_vlan else None)
        return PortVlans(native, frozenset(self.tagged[port]))

    def login(self) -> "Os9Cli":
        return Os9Cli(self)


class Os9Cli(ModedCli):
    box: Os9Box
    invalid = '                    ^\n% Error: Invalid input at "^" marker.\n'

    @property
    def prompt(self) -> str:
        modes = {"config": "(conf)", "vlan": f"(conf-if-vl-{self.about() if self.mode else ''})"}
        return f"tor1{modes[self.mode[-1][0]] if self.mode else ''}#"

    def rules(self, mode: str) -> Sequence[Rule]:
        if mode == "exec":
            return [
                ("terminal length 0", self.unpaged),
                ("configure", lambda: self.enter("config")),
                ("show interfaces switchport", self.switchport),
                ("show vlan", self.show_vlan),
                ("write memory", self.written),
            ]
        moves: list[Rule] = [("end", self.end), ("exit", self.leave)]
        if mode == "config":
            return [*moves, (r"interface vlan (\d+)", self.vlan)]
        return [
            *moves,
            (r"(no )?untagged (.+)", self.set_untagged),
            (r"(no )?tagged (.+)", self.set_tagged),
        ]

    def vlan(self, number: str) -> str | None:
        if not 1 <= int(number) <= 4094:
            return '% Error: Value out of range at "^" marker.\n'
        self.box.vlans.add(int(number))
        self.enter("vlan", number)
        return None

    def set_untagged(self, no: str | None, port: str) -> str | None:
        vlan = int(self.about())
        if port not in self.box.tagged:
            return self.invalid
        if no:
            if self.box.untagged.get(port) == vlan:
                del self.box.untagged[port]
            return None
        if port in self.box.untagged:
            return "% Error: Port is already an untagged member of another Vlan.\n"
        self.box.untagged[port] = vlan
        return None

    def set_tagged(self, no: str | None, port: str) -> str | None:
        if port not in self.box.tagged:
            return self.invalid
        (self.box.tagged[port].discard if no else self.box.tagged[port].add)(int(self.about()))
        return None

    def switchport(self) -> str:
        lines = [
            "",
            "Codes:  U - Untagged, T - Tagged",
            "        x - Dot1x untagged, X - Dot1x tagged",
            "        G - GVRP tagged, M - Trunk, H - VSN tagged",
            "        i - Internal untagged, I - Internal tagged, v - VLT untagged, V - VLT tagged",
        ]
        for port in self.box.tagged:
            carried = self.box.carried(port)
            lines += [
                "",
                f"Name: {port}",
                "Description: T 77",
                "802.1QTagged: Hybrid",
                "Vlan membership:",
                "Q       Vlans",
            ]
            if carried.native is not None:
                lines.append(f"U       {carried.native}")
            if carried.tagged:
                lines.append(f"T       {listed(carried.tagged)}")
            lines += ["", f"Native VlanId:    {carried.native or 1}."]
        return "\n".join([*lines, ""])

    def show_vlan(self) -> str:
        lines = [
            "",
            "Codes: * - Default VLAN, G - GVRP VLANs, R - Remote Port Mirroring VLANs, P - Primary",
            "Q: U - Untagged, T - Tagged",
            "",
            "    NUM    Status    Description                     Q Ports",
        ]
        for vlan in sorted(self.box.vlans):
            star = "*" if vlan == 1 else " "
            lines.append(f"{star}   {vlan:<6} Inactive  {'':<31} T Fo 0/48")
        return "\n".join([*lines, ""])

    def written(self) -> str:
        self.save()
        return "!\nNov 26 10:00:00: %STKUNIT0-M:CP %FILEMGR-5-FILESAVED: Copied running-config to startup-config\n"


@dataclass
class Os10Port:
    """Prepared: a trunk, shut."""

    mode: str = "trunk"
    access: int = 1
    tagged: frozenset[int] = frozenset()
    shut: bool = True


class Os10Box(Box):
    ports = tuple(f"ethernet1/1/{number}" for number in range(1, 7))
    uplink = "ethernet1/1/54"

    def __init__(self) -> None:
        super().__init__()
        self.settings = {port: Os10Port() for port in self.ports}
        self.settings[self.uplink] = Os10Port(tagged=frozenset(range(2, 4095)), shut=False)

    def carried(self, port: str) -> PortVlans:
        settings = self.settings[port]
        if settings.shut:
            return ISOLATED
        return PortVlans(settings.access, settings.tagged if settings.mode == "trunk" else frozenset())

    def login(self) -> "Os10Cli":
        return Os10Cli(self)


class Os10Cli(ModedCli):
    box: Os10Box
    invalid = "% Error: Unrecognized command.\n"

    @property
    def prompt(self) -> str:
        about = self.about() if self.mode else ""
        modes = {"config": "(config)", "if": f"(conf-if-eth{about[8:]})", "vlan": f"(conf-if-vl-{about})"}
        return f"tor1{modes[self.mode[-1][0]] if self.mode else ''}# "

    def rules(self, mode: str) -> Sequence[Rule]:
        if mode == "exec":
            return [
                ("terminal length 0", self.unpaged),
                ("configure terminal", lambda: self.enter("config")),
                ("show running-configuration", self.running),
                ("copy running-configuration startup-configuration", self.save),
            ]
        moves: list[Rule] = [("end", self.end), ("exit", self.leave)]
        if mode == "config":
            return [
                *moves,
                (r"interface vlan ?(\d+)", self.vlan),
                (r"interface (ethernet\S+)", self.interface),
            ]
        if mode == "vlan":
            return moves
        return [
            *moves,
            ("shutdown", lambda: self.set(shut=True)),
            ("no shutdown", lambda: self.set(shut=False)),
            (r"switchport mode (trunk|access)", lambda to: self.set(mode=to)),
            (r"switchport access vlan (\d+)", self.access),
            (r"switchport trunk allowed vlan (\S+)", self.allow),
            (r"no switchport trunk allowed vlan (\S+)", self.forbid),
        ]

    @property
    def port(self) -> Os10Port:
        return self.box.settings[self.about()]

    def set(self, *, shut: bool | None = None, mode: str | None = None) -> None:
        self.port.shut = self.port.shut if shut is None else shut
        self.port.mode = mode or self.port.mode

    def vlan(self, number: str) -> None:
        self.box.vlans.add(int(number))
        self.enter("vlan", number)

    def interface(self, name: str) -> str | None:
        if name not in self.box.settings:
            return "% Error: Invalid interface.\n"
        self.enter("if", name)
        return None

    def access(self, vlan: str) -> str | None:
        if int(vlan) in self.port.tagged:
            return "% Error: Interface cannot be an access and trunk member of the same VLAN.\n"
        if int(vlan) not in self.box.vlans:
            return "% Error: VLAN does not exist.\n"
        self.port.access = int(vlan)
        return None

    def allow(self, vlans: str) -> str | None:
        if self.port.access in numbers(vlans):
            return "% Error: Interface cannot be an access and trunk member of the same VLAN.\n"
        self.port.tagged |= numbers(vlans)
        return None

    def forbid(self, vlans: str) -> None:
        self.port.tagged -= numbers(vlans)

    def running(self) -> str:
        lines = [
            "! Version 10.5.4.2",
            "! Last configuration change at Nov 26 10:00:00 2026",
            "!",
            "hostname tor1",
        ]
        for vlan in sorted(self.box.vlans):
            lines += ["!", f"interface vlan{vlan}", " no shutdown"]
        lines += ["!", "interface mgmt1/1/1", " no shutdown", " ip address 10.0.0.2/24"]
        for name, port in self.box.settings.items():
            lines += [
                "!",
                f"interface {name}",
                f" description node_{name}",
                f" {'' if port.shut else 'no '}shutdown",
            ]
            if port.mode == "trunk":
                lines.append(" switchport mode trunk")
            lines.append(f" switchport access vlan {port.access}")
            if port.mode == "trunk" and port.tagged:
                lines.append(f" switchport trunk allowed vlan {listed(port.tagged)}")
            lines.append(" flowcontrol receive off")
        return "\n".join([*lines, "!", "support-assist", "!", "end", ""])
