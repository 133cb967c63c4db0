"""Double of Juniper Junos (ELS): lines of configuration, a private candidate, commits."""

import re

from bmi.drivers.switch import PortVlans
from tests.switches.box import ALL, Box, Cli, numbers

_SWITCHING = "unit 0 family ethernet-switching"


class JunosBox(Box):
    ports = tuple(f"ge-0/0/{number}" for number in range(6))
    uplink = "xe-0/1/0"

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        self.lines = [
            "set vlans default vlan-id 1",
            "set vlans storage vlan-id 300",
            'set interfaces ge-0/0/0 description "node 0"',
            f"set interfaces {self.uplink} {_SWITCHING} interface-mode trunk",
            f"set interfaces {self.uplink} {_SWITCHING} vlan members all",
        ]

    def carried(self, port: str) -> PortVlans:
        mine = [
            line.removeprefix(f"set interfaces {port} ")
            for line in self.lines
            if line.startswith(f"set interfaces {port} ")
        ]
        members: frozenset[int] = frozenset()
        for line in mine:
            if match := re.fullmatch(rf"{_SWITCHING} vlan members (\S+)", line):
                members |= ALL if match[1] == "all" else numbers(match[1])
        native = next((int(line.split()[1]) for line in mine if line.startswith("native-vlan-id")), None)
        if f"{_SWITCHING} interface-mode trunk" not in mine:
            return PortVlans(min(members, default=None) if members else None)
        return PortVlans(native if native in members else None, members - {native})

    def ids(self, lines: list[str]) -> set[int]:
        return {
            int(match[1]) for line in lines if (match := re.fullmatch(r"set vlans \S+ vlan-id (\d+)", line))
        }

    def login(self) -> "JunosCli":
        return JunosCli(self)


class JunosCli(Cli):
    banner = "--- JUNOS 22.4R3.25 Kernel 64-bit\n"

    def __init__(self, box: JunosBox) -> None:
        self.box = box
        self.orders: list[str] | None = None
        """What was said since `configure`."""

    @property
    def prompt(self) -> str:
        return "bmi@tor1> " if self.orders is None else "\n[edit]\nbmi@tor1# "

    def do(self, line: str) -> str:
        words = " ".join(line.split())
        if not words:
            return ""
        said = self.operational(words) if self.orders is None else self.configuration(words, self.orders)
        return "                 ^\nunknown command.\n" if said is None else said

    def operational(self, words: str) -> str | None:
        answers = {
            "set cli screen-width 511": "Screen width set to 511\n",
            "set cli complete-on-space off": "Disabling complete-on-space\n",
            "set cli screen-length 0": "Screen length set to 0\n",
        }
        if words in answers:
            self.paging = self.paging and "length" not in words
            return answers[words]
        if words == "configure private":
            self.orders = []
            return "warning: uncommitted changes will be discarded on exit\nEntering configuration mode\n"
        if words == "show interfaces terse | no-more":
            rows = [
                f"{port:<24}up    {'down' if port.endswith('/3') else 'up'}"
                for port in (*self.box.ports, self.box.uplink)
            ]
            more = [
                f"{self.box.ports[0]}.0              up    up   eth-switch",
                "vme                     up    down",
            ]
            return "\n".join(
                ["Interface               Admin Link Proto    Local                 Remote", *rows, *more, ""]
            )
        if match := re.fullmatch(r"show configuration (interfaces|vlans) \| display set \| no-more", words):
            return "".join(f"{line} \n" for line in self.box.lines if line.startswith(f"set {match[1]} "))
        return None

    def configuration(self, words: str, orders: list[str]) -> str | None:
        if words == "exit configuration-mode":
            self.orders = None
            return "Exiting configuration mode\n"
        if words == "rollback 0":
            orders.clear()
            return "load complete\n"
        if words == "commit":
            return self.commit(orders)
        if match := re.fullmatch(r"set (?:interfaces (\S+) .+|vlans \S+ vlan-id \d+)", words):
            if match[1] and match[1] not in (*self.box.ports, self.box.uplink):
                return "error: invalid interface\n"
            orders.append(words)
            return ""
        if words.startswith("delete "):
            found = words.replace("delete", "set", 1)
            there = any(line == found or line.startswith(f"{found} ") for line in self.applied(orders))
            orders.append(words)
            return "" if there else "warning: statement not found\n"
        return None

    def applied(self, orders: list[str]) -> list[str]:
        lines = list(self.box.lines)
        for order in orders:
            if order.startswith("set "):
                key = re.sub(r"(native-vlan-id|interface-mode) \S+$", r"\1", order)
                if key != order:  # of these there is one only
                    lines = [line for line in lines if not line.startswith(f"{key} ")]
                lines = [*lines, *([order] if order not in lines else [])]
            else:
                gone = order.replace("delete", "set", 1)
                lines = [line for line in lines if line != gone and not line.startswith(f"{gone} ")]
        return lines

    def commit(self, orders: list[str]) -> str:
        lines = self.applied(orders)
        ids = self.box.ids(lines)
        for line in lines:
            match = re.fullmatch(rf"set interfaces (\S+) {_SWITCHING} vlan members (\d+)", line)
            if match and int(match[2]) not in ids:
                return (
                    f"[edit interfaces {match[1]} {_SWITCHING} vlan]\n  'members {match[2]}'\n"
                    f"    No vlan matches vlan tag {match[2]} for interface {match[1]}.0\n"
                    "error: configuration check-out failed\n"
                )
        self.box.lines, self.box.vlans = lines, ids
        self.box.commits += 1
        orders.clear()
        return "commit complete\n"
