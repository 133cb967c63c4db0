"""Double of Aruba AOS-CX: a list of allowed VLANs that only grows, and a native VLAN that must be in it."""

from collections.abc import Sequence
from dataclasses import dataclass

from bmi.drivers.switch import ISOLATED, PortVlans
from tests.switches.box import ALL, Box, ModedCli, Rule, listed, numbers


@dataclass
class Port:
    """Prepared: a switch port, shut."""

    access: int | None = 1
    """None for a trunk."""
    native: int = 1
    allowed: frozenset[int] = frozenset()
    """None means all, as on a new trunk."""
    shut: bool = True


class AoscxBox(Box):
    ports = tuple(f"1/1/{number}" for number in range(1, 7))
    uplink = "1/1/49"

    def __init__(self) -> None:
        super().__init__()
        self.settings = {port: Port() for port in self.ports}
        self.settings[self.uplink] = Port(None, 1, ALL, shut=False)

    def carried(self, port: str) -> PortVlans:
        settings = self.settings[port]
        if settings.shut:
            return ISOLATED
        if settings.access is not None:
            return PortVlans(settings.access)
        allowed = settings.allowed or ALL
        native = settings.native if settings.native in allowed else None
        return PortVlans(native, allowed - {settings.native})

    def login(self) -> "AoscxCli":
        return AoscxCli(self)


class AoscxCli(ModedCli):
    box: AoscxBox
    invalid = "Invalid input: nosuch\n"

    @property
    def prompt(self) -> str:
        about = self.about() if self.mode else ""
        modes = {"config": "(config)", "if": "(config-if)", "vlan": f"(config-vlan-{about})"}
        return f"\x1b[6n\x1b[?7htor1{modes[self.mode[-1][0]] if self.mode else ''}# "

    def rules(self, mode: str) -> Sequence[Rule]:
        if mode == "exec":
            return [
                ("no page", self.unpaged),
                ("configure terminal", lambda: self.enter("config")),
                ("show running-config", self.running),
                ("show interface brief", self.brief),
                ("write memory", self.written),
            ]
        moves: list[Rule] = [("end", self.end), ("exit", self.leave)]
        if mode == "config":
            return [*moves, (r"vlan (\d+)", self.vlan), (r"interface (\S+)", self.interface)]
        if mode == "vlan":
            return moves
        return [
            *moves,
            ("shutdown", lambda: self.shut(True)),
            ("no shutdown", lambda: self.shut(False)),
            (r"vlan access (\d+)", self.access),
            (r"vlan trunk native (\d+)", self.native),
            (r"vlan trunk allowed (\S+)", self.allow),
        ]

    @property
    def port(self) -> Port:
        return self.box.settings[self.about()]

    def shut(self, to: bool) -> None:
        self.port.shut = to

    def vlan(self, number: str) -> str | None:
        if not 1 <= int(number) <= 4094:
            return "Invalid input: value out of range\n"
        self.box.vlans.add(int(number))
        self.enter("vlan", number)
        return None

    def interface(self, name: str) -> str | None:
        if name not in self.box.settings:
            return "Invalid input: interface\n"
        self.enter("if", name)
        return None

    def access(self, vlan: str) -> None:
        self.port.access, self.port.native, self.port.allowed = int(vlan), 1, frozenset()

    def native(self, vlan: str) -> str | None:
        if int(vlan) not in self.box.vlans:
            return f"VLAN {vlan} does not exist.\n"
        self.port.access, self.port.native = None, int(vlan)
        return None

    def allow(self, vlans: str) -> None:
        self.port.access = None
        self.port.allowed |= numbers(vlans)

    def running(self) -> str:
        lines = [
            "Current configuration:",
            "!",
            "!Version ArubaOS-CX FL.10.13.0001",
            "hostname tor1",
            f"vlan {listed(self.box.vlans)}",
            "spanning-tree",
        ]
        for name, port in self.box.settings.items():
            lines += [f"interface {name}", f"    description node {name}"]
            if not port.shut:
                lines.append("    no shutdown")
            if port.access is not None:
                lines.append(f"    vlan access {port.access}")
            else:
                allowed = listed(port.allowed) if port.allowed and port.allowed != ALL else "all"
                lines += [f"    vlan trunk native {port.native}", f"    vlan trunk allowed {allowed}"]
        return "\n".join([*lines, "interface vlan 1", "    ip dhcp", "!", ""])

    def brief(self) -> str:
        rule = "-" * 100
        lines = [
            rule,
            "Port      Native  Mode   Type           Enabled Status  Reason                  Speed   Description",
            "          VLAN                                                                  (Mb/s)  ",
            rule,
        ]
        for name, port in self.box.settings.items():
            mode = "trunk" if port.access is None else "access"
            native = port.native if port.access is None else port.access
            state = ("no ", "down", "Administratively down") if port.shut else ("yes", "up  ", "")
            speed = f"{state[2]:<23} 1000    node"
            lines.append(
                f"{name:<9} {native:<7} {mode:<6} 1GbT           {state[0]}     {state[1]}    {speed}"
            )
        lines.append(
            "vlan1     --      --     --             yes     up                              --      --"
        )
        return "\n".join([*lines, ""])

    def written(self) -> str:
        self.save()
        return "Copying configuration: [Success]\n"
