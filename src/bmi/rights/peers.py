"""Who gets through to a portal: a filter of the kernel (nftables) in the portal's namespace.

A secret can be stolen, and an initiator's name is whatever it says. An address on a network of its own is one more
thing that has to be right, and whoever takes another node's while that one is on is noticed by both.

Every namespace has one table for all its portals, where a packet is looked up in the same time however many there
are. What it says about a port outlives the portal's server: nobody listens there then, and the next server's portal
says it anew.
"""

import json
import threading
from collections import defaultdict
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from bmi import netns
from bmi.errors import LegError, TargetError

_TABLE = "inet bmi"

_RULES = f"""
add table {_TABLE}
add set {_TABLE} guarded {{ type inet_service; }}
add set {_TABLE} peers {{ type ipv4_addr . inet_service; }}
add chain {_TABLE} input {{ type filter hook input priority filter; policy accept; }}
flush chain {_TABLE} input
add rule {_TABLE} input tcp dport @guarded ip saddr . tcp dport != @peers counter drop
"""
"""All but the rule can be added again and again; so the chain is emptied first. The kernel takes it all at once."""

_changing = threading.Lock()  # between reading and writing; other processes have other portals


def let_in(namespace: str, port: int, peer: IPv4Address | None) -> bool:
    """Keep everybody but one address from a port; returns whether anything had to change.

    Args:
        namespace: Name of the namespace.
        port: Of TCP.
        peer: Who is let through; everybody if None.

    Raises:
        TargetError: The kernel does not take it, or there is no such namespace.
    """
    wanted = set() if peer is None else {peer}
    with _changing:
        filter = _Filter.read(namespace)
        commands = filter.missing(port, wanted)
        if commands:
            _run(namespace, "\n".join(commands))
    return bool(commands)


@dataclass(frozen=True)
class _Filter:
    """What a namespace's table says."""

    rules: int
    guarded: frozenset[int]
    peers: dict[int, set[IPv4Address]]

    @classmethod
    def read(cls, namespace: str) -> "_Filter":
        listed = json.loads(_run(namespace, "list ruleset inet") or '{"nftables": []}')["nftables"]
        ours = [
            (kind, thing) for each in listed for kind, thing in each.items() if thing.get("table") == "bmi"
        ]
        sets = {thing["name"]: thing.get("elem", []) for kind, thing in ours if kind == "set"}
        peers = defaultdict(set)
        for element in sets.get("peers", []):
            address, port = element["concat"]
            peers[int(port)].add(IPv4Address(address))
        rules = sum(kind == "rule" for kind, _ in ours)
        return cls(rules, frozenset(map(int, sets.get("guarded", []))), dict(peers))

    def missing(self, port: int, wanted: set[IPv4Address]) -> list[str]:
        """Return the commands after which only these get through to a port; anybody if there are none."""
        found = self.peers.get(port, set())
        commands = [_element("delete", "peers", f"{peer} . {port}") for peer in sorted(found - wanted)]
        commands += [_element("add", "peers", f"{peer} . {port}") for peer in sorted(wanted - found)]
        if wanted and port not in self.guarded:
            commands.append(_element("add", "guarded", str(port)))
        elif port in self.guarded and not wanted:
            commands.append(_element("delete", "guarded", str(port)))
        if wanted and (commands or self.rules != 1):
            commands.insert(0, _RULES)
        return commands


def _element(verb: str, set: str, element: str) -> str:
    return f"{verb} element {_TABLE} {set} {{ {element} }}"


def _run(namespace: str, commands: str) -> str:
    """Let the kernel carry out commands of nft(8) inside a namespace, all or none, and return what they list."""
    try:
        from nftables import Nftables
    except ImportError as error:
        raise TargetError(
            "the kernel's packet filter cannot be used: nftables has no Python binding here",
            next_step="install the package python3-nftables",
        ) from error

    def call() -> tuple[int, Any, Any]:
        nft = Nftables()  # it talks to the namespace that it is made in
        nft.set_json_output(True)
        status, output, complaint = nft.cmd(commands)
        return int(status), output, complaint

    try:
        status, output, complaint = netns.call_inside(namespace, call)
    except LegError as error:
        raise TargetError(error.message, next_step=error.next_step) from error
    if status:
        raise TargetError(
            f"the kernel's packet filter in namespace {namespace} does not take a rule: {complaint.strip()}",
            next_step="look at what nft list ruleset says there; the kernel needs nf_tables",
        )
    return str(output or "")
