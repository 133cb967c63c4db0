"""What a HIL knows, and what it does with it: the inside of the double, without HTTP."""

import threading
import time
import uuid
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

NATIVE = "vlan/native"


class Refusal(Exception):
    """HIL's no, as it goes over the wire."""

    def __init__(self, status: int, kind: str, msg: str) -> None:
        super().__init__(msg)
        self.status, self.kind, self.msg = status, kind, msg


class Page(Exception):
    """A page of HTML instead of an answer."""

    def __init__(self, status: int) -> None:
        super().__init__(str(status))
        self.status = status


@dataclass
class User:
    password: str
    projects: set[str] = field(default_factory=set)
    admin: bool = False


@dataclass
class Network:
    vlan: int
    access: set[str] | None = None
    """Projects that may use it; None if everybody may."""


@dataclass
class Nic:
    mac: str
    cabled: bool = True
    native_first: bool = False
    """Whether its switch is a dellnos9 or a brocade."""
    networks: dict[str, str] = field(default_factory=dict)
    history: list[dict[str, str]] = field(default_factory=list)
    """The networks that it was on, after each action."""


@dataclass
class Node:
    nics: dict[str, Nic]
    project: str | None = None
    obm: bool = False
    token: str = ""
    obmd: str | None = None
    """Where its OBMd is, if not where the others' is."""
    on: bool = False
    run: int = 0
    bootdev: str = "none"


@dataclass
class Action:
    node: str
    nic: str
    connect: bool
    channel: str
    network: str
    due: float
    status: str = "PENDING"


class World:
    """Everything behind one HIL.

    Args:
        version: `0.2`, `0.3` or `0.4`.
        delay: Seconds until the network daemon carries an action out; 2 at the most in a real HIL.
        allocator: `vlan_pool` or `null`.
    """

    def __init__(self, *, version: str = "0.4", delay: float = 0.01, allocator: str = "vlan_pool") -> None:
        self.lock = threading.RLock()
        self.version, self.delay, self.allocator = version, delay, allocator
        self.users: dict[str, User] = {}
        self.projects: set[str] = set()
        self.networks: dict[str, Network] = {}
        self.nodes: dict[str, Node] = {}
        self.actions: dict[str, Action] = {}
        self.failing: set[str] = set()
        """Networks whose actions end in ERROR."""
        self.broken = False
        """Whether HIL fails inside, at whatever it is asked."""
        self.frozen = False
        """Whether the network daemon does nothing."""
        self.deaf = False
        """Whether switches of OBMd's nodes stay as they are, whatever they are told."""
        self.calls: defaultdict[str, int] = defaultdict(int)

    # --- what an operator of HIL does ------------------------------------------------------------------------

    def add_node(self, name: str, project: str | None, **nics: str) -> Node:
        self.nodes[name] = Node({label: Nic(mac) for label, mac in nics.items()}, project)
        return self.nodes[name]

    def take_away(self, name: str, project: str | None) -> None:
        """End a lease as HIL has it: no network, no OBM, and then another project."""
        with self.lock:
            node = self.nodes[name]
            self.daemon(at_once=True)
            for nic in node.nics.values():
                nic.networks.clear()
            node.obm, node.project = False, project

    def give_back(self, project: str, name: str) -> None:
        """End a lease as its project may."""
        node = self.node(name)
        if node.project != project:
            raise Refusal(404, "NotFoundError", "Node not in project")
        if any(nic.networks for nic in node.nics.values()):
            raise Refusal(409, "BlockedError", "Node attached to a network")
        if any(one.node == name and one.status == "PENDING" for one in self.actions.values()):
            raise Refusal(409, "BlockedError", "Node has pending network actions")
        if node.obm:
            raise Refusal(409, "BlockedError", "Node's obm is enabled.")
        node.project = None

    # --- networks --------------------------------------------------------------------------------------------

    def daemon(self, *, at_once: bool = False) -> None:
        """Carry out what is due."""
        with self.lock:
            for action in list(self.actions.values()):
                due = at_once or action.due <= time.monotonic()
                if action.status != "PENDING" or self.frozen or not due:
                    continue
                if action.network in self.failing:
                    action.status = "ERROR"
                    continue
                nic = self.nodes[action.node].nics[action.nic]
                if action.connect:
                    nic.networks[action.channel] = action.network
                else:
                    nic.networks.pop(action.channel, None)
                nic.history.append(dict(nic.networks))
                action.status = "DONE"

    def channels(self, name: str) -> list[str]:
        if self.allocator == "null":
            return ["null"]
        return [NATIVE, f"vlan/{self.networks[name].vlan}"]

    def change(self, node: str, label: str, network: str, channel: str | None, *, connect: bool) -> str:
        """Take an order; returns the id of its action. In HIL's order of checks."""
        found = self.node(node)
        nic = found.nics.get(label)
        if nic is None:
            raise Refusal(404, "NotFoundError", "Nic does not exist")
        if found.project is None:
            raise Refusal(409, "ProjectMismatchError", "Node not in project")
        if network not in self.networks:
            raise Refusal(404, "NotFoundError", f"Network {network} does not exist.")
        if connect and not nic.cabled:
            raise Refusal(404, "NotFoundError", "No port is connected to given nic.")
        mine = {id: one for id, one in self.actions.items() if (one.node, one.nic) == (node, label)}
        if any(one.status == "PENDING" for one in mine.values()):
            raise Refusal(409, "BlockedError", "A networking operation is already active on the nic.")
        for id in mine:  # also when what follows is refused
            del self.actions[id]
        tagged = [other for other in nic.networks if other not in (NATIVE, "null")]
        if connect:
            access = self.networks[network].access
            if access is not None and found.project not in access:
                raise Refusal(409, "ProjectMismatchError", "Project does not have access to given network.")
            legal = self.channels(network)
            wanted = legal[0] if channel is None else channel
            if network in nic.networks.values():
                raise Refusal(409, "BlockedError", "The network is already attached to the nic.")
            if wanted in nic.networks:
                raise Refusal(409, "BlockedError", "The channel is already in use on the nic.")
            if wanted not in legal:
                raise Refusal(400, "BadArgumentError", f"Channel u'{wanted}', is not legal for this network.")
            if nic.native_first and wanted != NATIVE and NATIVE not in nic.networks:
                raise Refusal(409, "BlockedError", "Please attach a native network first")
        else:
            held = [key for key, name in nic.networks.items() if name == network]
            if not held:
                raise Refusal(400, "BadArgumentError", "The network is not attached to the nic.")
            wanted = held[0]
            if nic.native_first and wanted == NATIVE and tagged:
                text = "Please remove all trunked Vlans before removing the native vlan"
                raise Refusal(409, "BlockedError", text)
        id = str(uuid.uuid4())
        self.actions[id] = Action(node, label, connect, wanted, network, time.monotonic() + self.delay)
        return id

    def node(self, name: str) -> Node:
        if name not in self.nodes:
            raise Refusal(404, "NotFoundError", f"Node {name} does not exist.")
        return self.nodes[name]

    def described(self, name: str) -> dict[str, Any]:
        node = self.node(name)
        nics = [
            {"label": label, "macaddr": nic.mac, "networks": dict(nic.networks)}
            for label, nic in node.nics.items()
        ]
        return {"metadata": {}, "name": name, "nics": nics, "project": node.project}

    # --- power -----------------------------------------------------------------------------------------------

    def power(self, node: Node, verb: str, body: dict[str, Any]) -> dict[str, str] | None:
        """Do what OBMd, or HIL 0.3 itself, does with a node's controller."""
        if verb == "power_status":
            return {"power_status": "on" if node.on else "off"}
        if verb == "boot_device":
            if body.get("bootdev") not in ("pxe", "disk", "none"):
                raise Refusal(400, "BadArgumentError", "Invalid boot device")
            node.bootdev = body["bootdev"]
        elif self.deaf:
            return None
        elif verb == "power_off":
            node.on = False
        elif verb == "power_cycle" or not node.on:
            node.on, node.run = True, node.run + 1
        return None
