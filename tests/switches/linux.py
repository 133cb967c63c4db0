"""Doubles of switches with a Linux shell: Cumulus with NVUE, SONiC."""

import json
import re
from typing import Any

from bmi.drivers.switch import PortVlans
from tests.switches.box import Box, Cli, listed, numbers


class ShellCli(Cli):
    """A shell that knows `a; b`, `echo`, `$?` and `| cat`."""

    paging = False
    prompt = "bmi@tor1:~$ "

    def __init__(self, box: Any) -> None:
        self.box = box

    def do(self, line: str) -> str:
        said, status = "", 0
        for part in filter(None, (part.strip() for part in line.split(";"))):
            command, _, piped = part.partition(" | ")
            if command.startswith("echo "):
                said += command.removeprefix("echo ").replace("$?", str(status)) + "\n"
                continue
            text, status = self.run(command)
            said += text
            if piped:
                status = 0
        return said

    def run(self, command: str) -> tuple[str, int]:
        raise NotImplementedError


class CumulusBox(Box):
    ports = tuple(f"swp{number}" for number in range(1, 7))
    uplink = "swp51"

    def __init__(self) -> None:
        super().__init__()
        self.applied = 0
        # As the switch keeps them: what is set for each interface in the bridge, "untagged" and "vlan".
        self.members: dict[str, dict[str, Any]] = {self.uplink: {}}

    def carried(self, port: str) -> PortVlans:
        if port not in self.members:
            return PortVlans()
        member = self.members[port]
        vlans = frozenset(member.get("vlan") or self.vlans)
        untagged = member.get("untagged", 1)
        if untagged == "none":
            return PortVlans(None, vlans)
        return PortVlans(untagged if untagged in vlans else None, vlans - {untagged})

    def login(self) -> "CumulusCli":
        return CumulusCli(self)


class CumulusCli(ShellCli):
    box: CumulusBox
    prompt = "bmi@tor1:mgmt:~$ "
    banner = "Welcome to NVIDIA Cumulus (R) Linux (R)\n"

    def __init__(self, box: CumulusBox) -> None:
        super().__init__(box)
        self.pending: list[tuple[str, ...]] = []

    def run(self, command: str) -> tuple[str, int]:
        if command == "ls /sys/class/net":
            return "\n".join(["br_default", "eth0", "lo", "mgmt", *self.box.ports, self.box.uplink, ""]), 0
        if command == "nv config show -o json":
            return self.show(), 0
        if command == "nv config save":
            self.box.saves += 1
            return "saved\n", 0
        if command == "nv config detach":
            self.pending.clear()
            return "", 0
        if command == "nv config apply -y":
            return self.apply()
        if match := re.fullmatch(r"nv set bridge domain br_default vlan (\S+)", command):
            self.pending.append(("vlan", match[1]))
            return "", 0
        if match := re.fullmatch(r"nv (set|unset) interface (\S+) bridge domain br_default ?(.*)", command):
            if match[2] not in (*self.box.ports, self.box.uplink):
                return f"Error: {match[2]} is not a valid interface\n", 1
            self.pending.append((match[1], match[2], *match[3].split()))
            return "", 0
        return f"Error: Invalid parameter {command.split()[-1]!r}\n", 1

    def apply(self) -> tuple[str, int]:
        if not self.pending:
            return "Warning: current applied config and pending config are the same\n", 1
        vlans = set(self.box.vlans)
        members = {port: dict(member) for port, member in self.box.members.items()}
        for verb, *words in self.pending:
            if verb == "vlan":
                vlans |= numbers(words[0])
            elif verb == "unset":
                members.pop(words[0], None)
            else:
                member = members.setdefault(words[0], {})
                if words[1:2] == ["untagged"]:
                    member["untagged"] = "none" if words[2] == "none" else int(words[2])
                elif words[1:2] == ["vlan"]:
                    member["vlan"] = set(member.get("vlan", ())) | numbers(words[2])
        for port, member in members.items():
            if strange := set(member.get("vlan", ())) - vlans:
                self.pending.clear()
                return f"Invalid config [rev_id: 7]\n  {port}: vlan {min(strange)} is not in the bridge\n", 1
        self.pending.clear()
        self.box.vlans, self.box.members = vlans, members
        self.box.applied += 1
        return f"applied [rev_id: {self.box.applied}]\n", 0

    def show(self) -> str:
        """Interfaces that are set alike share a key, as NVUE has it."""
        alike: dict[str, list[str]] = {}
        for port, member in self.box.members.items():
            shown: dict[str, Any] = {}
            if "untagged" in member:
                shown["untagged"] = member["untagged"]
            if member.get("vlan"):
                shown["vlan"] = {part: {} for part in listed(member["vlan"]).split(",")}
            alike.setdefault(json.dumps(shown), []).append(port)
        interfaces: dict[str, Any] = {"eth0": {"ip": {"address": {"dhcp": {}}}, "type": "eth"}}
        for shown_as, ports in alike.items():
            key = ",".join(f"swp{part}" for part in listed(int(port[3:]) for port in ports).split(","))
            interfaces[key] = {"bridge": {"domain": {"br_default": json.loads(shown_as)}}, "type": "swp"}
        vlans = {part: {} for part in listed(self.box.vlans).split(",")}
        return json.dumps(
            [
                {"header": {"model": "VX", "version": "Cumulus Linux 5.11.0"}},
                {"set": {"bridge": {"domain": {"br_default": {"vlan": vlans}}}, "interface": interfaces}},
            ],
            indent=2,
        )


class SonicBox(Box):
    ports = tuple(f"Ethernet{number * 4}" for number in range(6))
    uplink = "Ethernet124"

    def __init__(self) -> None:
        super().__init__()
        self.vlans = {300}
        self.members: dict[str, dict[int, str]] = {port: {} for port in self.ports}
        self.members[self.uplink] = {300: "tagged"}

    def carried(self, port: str) -> PortVlans:
        kinds = self.members[port]
        native = next((vlan for vlan, kind in kinds.items() if kind == "untagged"), None)
        return PortVlans(native, frozenset(kinds) - {native})

    def login(self) -> "SonicCli":
        return SonicCli(self)


class SonicCli(ShellCli):
    box: SonicBox
    prompt = "bmi@tor1:~$ "

    def run(self, command: str) -> tuple[str, int]:
        if not command.startswith("sudo -n "):
            return "Root privileges are required for this operation\n", 1
        command = command.removeprefix("sudo -n ")
        if match := re.fullmatch(r"sonic-cfggen -d --var-json (\w+)", command):
            return self.table(match[1]), 0
        if command == "config save -y":
            self.box.saves += 1
            return (
                "Running command: /usr/local/bin/sonic-cfggen -d --print-data > /etc/sonic/config_db.json\n",
                0,
            )
        if match := re.fullmatch(r"config vlan add (\d+)", command):
            if int(match[1]) in self.box.vlans:
                return self.error(f"Vlan{match[1]} already exists")
            self.box.vlans.add(int(match[1]))
            return "", 0
        if match := re.fullmatch(r"config vlan member (add|del)( -u)? (\d+) (\S+)", command):
            return self.member(match[1], bool(match[2]), int(match[3]), match[4])
        return f"Usage: config [OPTIONS] COMMAND [ARGS]...\n\nError: No such command {command!r}.\n", 2

    def error(self, text: str) -> tuple[str, int]:
        return f"Usage: config vlan [OPTIONS]\nTry 'config vlan -h' for help.\n\nError: {text}!\n", 2

    def member(self, verb: str, untagged: bool, vlan: int, port: str) -> tuple[str, int]:
        if port not in self.box.members:
            return self.error(f"{port} does not exist")
        members = self.box.members[port]
        if vlan not in self.box.vlans:
            return self.error(f"Vlan{vlan} does not exist")
        if verb == "del":
            if vlan not in members:
                return self.error(f"{port} is not a member of Vlan{vlan}")
            del members[vlan]
            return "", 0
        if vlan in members:
            return self.error(f"{port} is already a member of Vlan{vlan}")
        if untagged and "untagged" in members.values():
            return self.error(f"{port} is already untagged member")
        members[vlan] = "untagged" if untagged else "tagged"
        return "", 0

    def table(self, name: str) -> str:
        rows: dict[str, Any] = {}
        if name == "PORT":
            rows = {port: {"admin_status": "up", "speed": "100000"} for port in self.box.members}
        elif name == "VLAN":
            rows = {f"Vlan{vlan}": {"vlanid": str(vlan)} for vlan in sorted(self.box.vlans)}
        elif name == "VLAN_MEMBER":
            rows = {
                f"Vlan{vlan}|{port}": {"tagging_mode": kind}
                for port, members in self.box.members.items()
                for vlan, kind in members.items()
            }
        # A table without rows is not printed at all.
        return json.dumps(rows, indent=4) + "\n" if rows else ""
