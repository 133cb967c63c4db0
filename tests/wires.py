"""A switch of its own and nodes on its ports, for tests that send real frames."""

import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from uuid import uuid4

from bmi import netns
from bmi.errors import CommandFailed
from bmi.lab.openvswitch import OpenVSwitch
from bmi.run import run
from bmi.wait import wait_until

BROADCAST = b"\xff" * 6
ETHERTYPE = 0x88B5  # for local experiments (IEEE 802)
SILENCE = 0.5  # seconds in which a frame that is let through arrives, also on a busy machine
ARRIVAL = 5.0  # seconds that a frame may take on a busy machine

_ALL_PROTOCOLS = 3  # ETH_P_ALL
_SOL_PACKET, _AUXDATA, _VLAN_VALID = 263, 8, 0x10  # <linux/if_packet.h>


@dataclass(frozen=True)
class Frame:
    """What a node received."""

    vlan: int | None
    """Of the frame's outer tag."""
    content: bytes


class Node:
    """A host with one NIC on a port of the switch."""

    def __init__(self, port: str, namespace: str, address: IPv4Interface) -> None:
        self.port = port
        self.namespace = namespace
        self.address = address
        with self.socket() as probe:
            self.mac: bytes = probe.getsockname()[4]

    def socket(self) -> socket.socket:
        """Return a raw socket on the NIC."""
        raw = netns.socket_inside(self.namespace, socket.AF_PACKET, socket.SOCK_RAW)
        raw.setsockopt(_SOL_PACKET, _AUXDATA, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        raw.bind(("eth0", _ALL_PROTOCOLS))
        raw.setblocking(False)
        return raw

    def frame(self, content: bytes, *, to: bytes = BROADCAST, tags: bytes = b"") -> bytes:
        return to + self.mac + tags + struct.pack("!H", ETHERTYPE) + content.ljust(46, b".")

    def ping(self, address: IPv4Interface) -> bool:
        try:
            run(["ping", "-c", "1", "-W", "0.5", str(address.ip)], namespace=self.namespace)
        except CommandFailed:
            return False
        return True


def tag(vlan: int, *, type: int = 0x8100) -> bytes:
    """Return a VLAN tag as it stands in a frame."""
    return struct.pack("!HH", type, vlan)


def receive(raw: socket.socket, *, mark: bytes, seconds: float, enough: int) -> list[Frame]:
    """Collect frames with a mark in them that others sent, until there are enough or time is over."""
    found: list[Frame] = []
    end = time.monotonic() + seconds
    while len(found) < enough and (left := end - time.monotonic()) > 0:
        if not select.select([raw], [], [], left)[0]:
            break
        data, extra, _, sender = raw.recvmsg(2048, 256)
        if sender[2] == socket.PACKET_OUTGOING or mark not in data:
            continue
        found.append(Frame(_vlan(extra), data))
    return found


def reaches(sender: Node, receiver: Node, *, tags: bytes = b"") -> bool:
    """Say whether a node's frames arrive at another, be they for all or for that one alone."""
    mark = os.urandom(8).hex().encode()
    with sender.socket() as out, receiver.socket() as into:
        out.send(sender.frame(mark, tags=tags))
        out.send(sender.frame(mark, to=receiver.mac, tags=tags))
        if not receive(into, mark=mark, seconds=SILENCE, enough=1):
            return False
        assert receive(into, mark=mark, seconds=ARRIVAL, enough=1), "one of two frames was lost"
        return True


@contextmanager
def running_switch(folder: Path) -> Iterator[OpenVSwitch]:
    """Run an Open vSwitch of our own."""
    switch = OpenVSwitch(folder / "switch", f"tsw-{uuid4().hex[:8]}")
    try:
        switch.start()
        yield switch
    finally:
        switch.stop()


class Rack:
    """Nodes on a switch; they go with it."""

    def __init__(self, switch: OpenVSwitch, stack: ExitStack) -> None:
        self.switch = switch
        self._stack = stack
        self._count = 0

    def node(self) -> Node:
        """Cable a new host to a new port of the switch, which is isolated."""
        self._count += 1
        address = IPv4Interface((0x0A420000 + self._count, 24))
        port = f"p{self._count}"
        namespace = f"tnd-{uuid4().hex[:8]}"
        netns.create(namespace)
        self._stack.callback(netns.delete, namespace)
        commands = (
            f"link add {port} type veth peer name eth0 netns {namespace}\n"
            f"link set {port} addrgenmode none\nlink set {port} arp off up\n"
        )
        run(["ip", "-n", self.switch.namespace, "-batch", "-"], input=commands.encode())
        run(["ethtool", "-K", "eth0", "tx", "off"], namespace=namespace)
        commands = f"address add {address} dev eth0\nlink set eth0 up\n"
        run(["ip", "-n", namespace, "-batch", "-"], input=commands.encode())
        self.switch.add_port(port)
        wait_until(
            lambda: "," in _flags(namespace), deadline=5, what="the cable", next_step="look at the namespace"
        )
        return Node(port, namespace, address)


@contextmanager
def rack(switch: OpenVSwitch) -> Iterator[Rack]:
    with ExitStack() as stack:
        yield Rack(switch, stack)


def _flags(namespace: str) -> str:
    shown = run(["ip", "-n", namespace, "-o", "link", "show", "dev", "eth0", "up"])
    return shown if "LOWER_UP" in shown else ""


def _vlan(extra: list[tuple[int, int, bytes]]) -> int | None:
    for level, type, data in extra:
        if level == _SOL_PACKET and type == _AUXDATA:
            status, tci = struct.unpack_from("I", data)[0], struct.unpack_from("H", data, 16)[0]
            return tci & 0xFFF if status & _VLAN_VALID else None
    return None
