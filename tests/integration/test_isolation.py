"""Whether frames go where they may, and nowhere else: real frames, on a real switch."""

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from itertools import pairwise
from pathlib import Path
from typing import Literal
from uuid import uuid4

import pytest

from bmi import netns, processes
from bmi.drivers import Site
from bmi.drivers.leg import Leg
from bmi.drivers.leg.ovs import OvsLeg
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.ovs import OvsSwitch
from bmi.errors import SwitchError
from bmi.ids import new_id
from bmi.lab.openvswitch import OpenVSwitch
from bmi.wait import wait_until
from tests.wires import ARRIVAL, BROADCAST, SILENCE, Node, Rack, rack, reaches, receive, running_switch, tag

FLOOD = Path(__file__).with_name("flood.py")
TIMEOUT = 5.0  # seconds; what the driver under test gets
PROVIDER = 0x88A8  # type of the outer tag of IEEE 802.1ad
FOR_SWITCHES = [
    bytes.fromhex(mac) for mac in ("0180c2000000", "0180c200000e", "01000ccccccc")
]  # STP, LLDP, CDP


@dataclass
class Fabric:
    """Everything a test of isolation needs."""

    lab: OpenVSwitch
    rack: Rack
    switch: OvsSwitch
    legs: OvsLeg
    site: Site

    def node(self, vlans: PortVlans) -> Node:
        node = self.rack.node()
        self.switch.configure(node.port, vlans)
        return node

    def leg(self, vlan: int, address: str = "10.66.0.254/24") -> Node:
        """Make a leg, which is seen as one more node."""
        leg: Leg = self.legs.up(new_id(), vlan, IPv4Interface(address))
        return Node("", leg.namespace, leg.address)

    def kill(self, daemon: str) -> None:
        process = processes.recorded(self.lab.directory / f"{daemon}.json")
        assert process is not None
        process.stop(kill=True)


@pytest.fixture
def fabric(tmp_path: Path) -> Iterator[Fabric]:
    site = Site(tmp_path / "state", uuid4().hex[:8])
    with running_switch(tmp_path) as lab, rack(lab) as nodes:
        options = {"database": lab.db, "timeout": TIMEOUT}
        with (
            closing(OvsSwitch(options, site)) as switch,
            closing(OvsLeg({**options, "namespace": lab.namespace}, site)) as legs,
        ):
            try:
                yield Fabric(lab, nodes, switch, legs, site)
            finally:
                for name in netns.names():
                    if name.startswith(f"bmi-{site.installation}-"):
                        netns.delete(name)


# --- who reaches whom --------------------------------------------------------------------------------------


def test_nodes_of_one_vlan_reach_each_other(fabric: Fabric) -> None:
    a, b = fabric.node(PortVlans(101)), fabric.node(PortVlans(101))
    assert reaches(a, b)
    assert reaches(b, a)
    assert a.ping(b.address)


def test_nodes_of_different_vlans_do_not(fabric: Fabric) -> None:
    a, b = fabric.node(PortVlans(101)), fabric.node(PortVlans(102))
    assert not reaches(a, b)
    assert not reaches(b, a)
    assert not a.ping(b.address)


def test_an_access_port_takes_no_tagged_frames(fabric: Fabric) -> None:
    """Or a node could hop into another VLAN by tagging its frames itself."""
    a, b, c = fabric.node(PortVlans(101)), fabric.node(PortVlans(102)), fabric.node(PortVlans(101))
    for tags in (tag(101), tag(102), tag(101) + tag(102), tag(102) + tag(101)):
        assert not reaches(a, b, tags=tags)
        assert not reaches(a, c, tags=tags)


def test_a_port_carries_its_tagged_vlans_and_no_other(fabric: Fabric) -> None:
    trunk = fabric.node(PortVlans(tagged=frozenset({101, 102})))
    one, two, three = (fabric.node(PortVlans(vlan)) for vlan in (101, 102, 103))

    assert reaches(trunk, one, tags=tag(101))
    assert reaches(trunk, two, tags=tag(102))
    assert not reaches(trunk, three, tags=tag(103))
    assert not reaches(trunk, two, tags=tag(101))
    assert not any(reaches(trunk, other) for other in (one, two, three))
    assert reaches(one, trunk)
    assert not reaches(three, trunk)


def test_frames_leave_a_trunk_with_their_tag_and_without_that_of_the_native_vlan(fabric: Fabric) -> None:
    both = fabric.node(PortVlans(101, frozenset({102})))
    native, tagged = fabric.node(PortVlans(101)), fabric.node(PortVlans(102))
    with both.socket() as into:
        for sender, vlan in ((native, None), (tagged, 102)):
            mark = os.urandom(8).hex().encode()
            with sender.socket() as out:
                out.send(sender.frame(mark))
            [frame] = receive(into, mark=mark, seconds=ARRIVAL, enough=1)
            assert frame.vlan == vlan
    assert reaches(both, native)
    assert reaches(both, tagged, tags=tag(102))
    assert not reaches(both, tagged)


# --- isolated ports ----------------------------------------------------------------------------------------


def everybody(fabric: Fabric) -> list[Node]:
    """Return a node on every kind of port, an isolated one included, and a leg."""
    kinds = [
        PortVlans(101),
        PortVlans(1),
        PortVlans(4094),
        PortVlans(tagged=frozenset({101, 102})),
        PortVlans(tagged=frozenset(range(2, 4095))),
        PortVlans(101, frozenset({102, 4094})),
        ISOLATED,
    ]
    return [*map(fabric.node, kinds), fabric.leg(101)]


def test_no_frame_of_an_isolated_node_reaches_anybody(fabric: Fabric) -> None:
    """Whatever it sends: without tag, with every VLAN's, for priority only, two tags, a provider's tag."""
    others = everybody(fabric)
    isolated = fabric.node(PortVlans(101))
    mark = os.urandom(8).hex().encode()
    tags = [
        b"",
        *(tag(vlan) for vlan in range(4096)),
        *(tag(vlan, type=PROVIDER) for vlan in (0, 1, 101, 102, 4094, 4095)),
        *(tag(outer) + tag(inner) for outer in (0, 101, 4095) for inner in (0, 101, 4095)),
        *(tag(0x2000 | vlan) for vlan in (0, 101, 4095)),  # with a priority
    ]
    targets = [BROADCAST, others[0].mac, *FOR_SWITCHES]

    assert reaches(isolated, others[0])  # its port works, and the switch has learned where they are
    fabric.switch.configure(isolated.port, ISOLATED)
    with isolated.socket() as out:
        sockets = [other.socket() for other in others]
        try:
            out.setblocking(True)
            for frame_tags in tags:
                for target in targets:
                    out.send(isolated.frame(mark, to=target, tags=frame_tags))
            found = [receive(into, mark=mark, seconds=SILENCE, enough=1) for into in sockets]
        finally:
            for each in sockets:
                each.close()
    assert found == [[] for _ in others]


def test_no_frame_of_anybody_reaches_an_isolated_node(fabric: Fabric) -> None:
    others = everybody(fabric)
    isolated = fabric.node(ISOLATED)
    mark = os.urandom(8).hex().encode()
    with isolated.socket() as into:
        for other in others:
            with other.socket() as out:
                for frame_tags in (b"", *(tag(vlan) for vlan in (0, 1, 101, 102, 4094, 4095))):
                    for target in (BROADCAST, isolated.mac):
                        out.send(other.frame(mark, to=target, tags=frame_tags))
        assert receive(into, mark=mark, seconds=SILENCE, enough=1) == []


def test_two_isolated_nodes_do_not_reach_each_other(fabric: Fabric) -> None:
    a, b = fabric.node(ISOLATED), fabric.node(ISOLATED)
    for tags in (b"", tag(0), tag(101), tag(4095), tag(4095) + tag(4095), tag(4095, type=PROVIDER)):
        assert not reaches(a, b, tags=tags)
        assert not reaches(b, a, tags=tags)


def test_a_new_port_is_isolated_before_anybody_configured_it(fabric: Fabric) -> None:
    a, b, member = fabric.rack.node(), fabric.rack.node(), fabric.node(PortVlans(101))
    assert not reaches(a, b)
    assert not reaches(a, member)
    assert not reaches(member, a)


@pytest.mark.parametrize("vlans", [ISOLATED, PortVlans(101)], ids=str)
def test_the_host_of_the_switch_answers_nobody(fabric: Fabric, vlans: PortVlans) -> None:
    """Frames reach the kernel of the switch's namespace too, which must keep quiet."""
    node = fabric.node(vlans)
    with node.socket() as raw:
        for target in ("ff02::1", "ff02::2"):
            subprocess.run(
                ["ip", "netns", "exec", node.namespace, "ping", "-c1", "-W0.5", f"{target}%eth0"],
                capture_output=True,
                check=False,
            )
        subprocess.run(
            ["ip", "netns", "exec", node.namespace, "ping", "-c1", "-W0.5", "10.66.0.99"],
            capture_output=True,
            check=False,
        )
        assert receive(raw, mark=b"", seconds=SILENCE, enough=1) == []


def test_a_port_that_carries_every_vlan_is_a_hole_that_is_told(fabric: Fabric) -> None:
    """Such as an uplink as Open vSwitch makes it: what an isolated node sends leaves the host there."""
    uplink, node, other = fabric.rack.node(), fabric.node(PortVlans(101)), fabric.node(PortVlans(101))
    _vsctl(fabric, "clear", "Port", uplink.port, "tag", "vlan_mode")
    _vsctl(fabric, "set", "Port", uplink.port, "protected=false")
    assert reaches(node, uplink)

    with pytest.raises(SwitchError, match=f"{uplink.port} carries every VLAN"):
        fabric.switch.configure(node.port, ISOLATED)

    assert not reaches(node, other)
    _vsctl(fabric, "set", "Port", uplink.port, "trunks=101,102")
    fabric.switch.configure(node.port, ISOLATED)
    for tags in (b"", tag(101), tag(4095)):
        assert not reaches(node, uplink, tags=tags)
        assert not reaches(uplink, node, tags=tags)


def _vsctl(fabric: Fabric, *words: str) -> None:
    subprocess.run(["ovs-vsctl", f"--db={fabric.lab.db}", *words], check=True)


# --- changes under load ------------------------------------------------------------------------------------


class Flood:
    """A sender or receiver of many frames."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"

    def end(self) -> list[tuple[int, float, float]]:
        """End it; a receiver returns who sent, when, and when it arrived."""
        output, _ = self._process.communicate(timeout=60)
        return [tuple(each) for each in json.loads(output)] if output else []

    @property
    def pid(self) -> int:
        return self._process.pid


@contextmanager
def flood(node: Node, mode: Literal["send", "receive"], *arguments: str) -> Iterator[Flood]:
    words = ["ip", "netns", "exec", node.namespace, sys.executable, str(FLOOD), mode, "eth0", *arguments]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Flood(process)
        finally:
            process.kill()


def leaked(frames: Sequence[tuple[int, float, float]], closed: Sequence[tuple[float, float]]) -> list[float]:
    """Return when frames were sent and arrived while their way was closed.

    One that was sent then may arrive later: it waited in the switch until the way was open again.
    """
    return [
        sent for _, sent, arrived in frames if any(start < sent and arrived < end for start, end in closed)
    ]


@pytest.mark.parametrize("flows", [1, 3000])
def test_a_port_that_was_moved_gets_nothing_of_its_old_vlan_once_configure_returned(
    fabric: Fabric, flows: int
) -> None:
    """With many flows the switch would need a while to look through its cache."""
    sender, receiver = fabric.node(PortVlans(101)), fabric.node(PortVlans(101))
    moved: list[tuple[float, float]] = []
    round_of_all = max(100, flows)
    with (
        flood(receiver, "receive") as sink,
        flood(sender, "send", receiver.mac.hex(), str(flows)) as source,
        receiver.socket() as raw,
    ):
        for _ in range(15):
            # Until all flows are in the cache.
            assert len(receive(raw, mark=b"", seconds=ARRIVAL, enough=round_of_all)) == round_of_all
            fabric.switch.configure(receiver.port, PortVlans(102))
            start = time.monotonic()
            receive(raw, mark=b"never", seconds=0.1, enough=1)
            moved.append((start, time.monotonic()))
            fabric.switch.configure(receiver.port, PortVlans(101))
        source.end()
        frames = sink.end()
    assert leaked(frames, moved) == []


def test_a_node_that_was_moved_is_not_remembered_in_its_old_vlan(fabric: Fabric) -> None:
    """While it talks, the switch learns where it is from every frame, and may learn it once too often."""
    talker, peer = fabric.node(PortVlans(101)), fabric.node(PortVlans(101))
    moved: list[tuple[float, float]] = []
    with (
        flood(talker, "receive") as sink,
        flood(talker, "send", peer.mac.hex(), "0"),
        flood(peer, "send", talker.mac.hex(), "50") as source,
        talker.socket() as raw,
    ):
        for vlans in [PortVlans(102), ISOLATED] * 15:
            assert len(receive(raw, mark=b"", seconds=ARRIVAL, enough=100)) == 100
            fabric.switch.configure(talker.port, vlans)
            start = time.monotonic()
            receive(raw, mark=b"never", seconds=0.05, enough=1)
            moved.append((start, time.monotonic()))
            fabric.switch.configure(talker.port, PortVlans(101))
        source.end()
        frames = sink.end()
    assert leaked(frames, moved) == []


def test_a_port_never_carries_its_old_and_its_new_vlan_together(fabric: Fabric) -> None:
    one, two, moving = (fabric.node(PortVlans(vlan)) for vlan in (101, 102, 101))
    with (
        flood(moving, "receive") as sink,
        flood(one, "send", moving.mac.hex(), "500") as from_one,
        flood(two, "send", moving.mac.hex(), "500") as from_two,
        moving.socket() as raw,
    ):
        for vlan in [102, 101] * 10:
            assert len(receive(raw, mark=b"", seconds=ARRIVAL, enough=200)) == 200
            fabric.switch.configure(moving.port, PortVlans(vlan))
        from_one.end()
        from_two.end()
        frames = sink.end()
    senders = [sender for sender, _, _ in frames]
    assert set(senders) == {from_one.pid, from_two.pid}
    changes = sum(before != after for before, after in pairwise(senders))
    assert changes == 20


def test_a_port_in_change_carries_nothing_but_what_it_is_set_to(fabric: Fabric) -> None:
    """Open vSwitch frees a port's list of VLANs while it still looks at it."""
    moving = fabric.node(ISOLATED)
    stranger = fabric.node(PortVlans(tagged=frozenset(range(1, 128))))
    settings = [
        PortVlans(tagged=frozenset({301})),
        PortVlans(302),
        PortVlans(302, frozenset({301, 303})),
        PortVlans(tagged=frozenset({303})),
        ISOLATED,
        PortVlans(301, frozenset({302})),
        PortVlans(302, frozenset({301})),
        ISOLATED,
    ]
    with (
        flood(moving, "receive") as sink,
        flood(stranger, "send", moving.mac.hex(), "0", "1", "127") as source,
        flood(moving, "send", stranger.mac.hex(), "0", "1", "127") as back,
        flood(stranger, "receive") as other_sink,
    ):
        for vlans in settings * 6:
            fabric.switch.configure(moving.port, vlans)
        assert [frame for frame in other_sink.end() if frame[0] == back.pid] == []
        assert [frame for frame in sink.end() if frame[0] == source.pid] == []
        # Both would have been heard.
        fabric.switch.configure(moving.port, PortVlans(tagged=frozenset({100})))
        with moving.socket() as there, stranger.socket() as here:
            assert len(receive(there, mark=b"", seconds=ARRIVAL, enough=5)) == 5
            assert len(receive(here, mark=b"", seconds=ARRIVAL, enough=5)) == 5


# --- when the switch itself dies ---------------------------------------------------------------------------


def test_without_vswitchd_nobody_reaches_anybody_and_its_return_restores_the_same(fabric: Fabric) -> None:
    a, b = fabric.node(PortVlans(101)), fabric.node(PortVlans(101))
    other, isolated = fabric.node(PortVlans(102)), fabric.node(ISOLATED)
    leg = fabric.leg(101)
    assert reaches(a, b)

    fabric.kill("ovs-vswitchd")
    assert not reaches(a, b)
    assert not reaches(b, a)
    assert not reaches(a, leg)

    with (
        flood(other, "send", a.mac.hex(), "100") as first,
        flood(isolated, "send", a.mac.hex(), "100") as second,
        flood(b, "send", a.mac.hex(), "1") as third,
        flood(a, "receive") as sink,
        a.socket() as raw,
    ):
        fabric.lab.start()
        assert len(receive(raw, mark=b"", seconds=ARRIVAL, enough=100)) == 100
        for each in (first, second, third):
            each.end()
        assert {sender for sender, _, _ in sink.end()} == {third.pid}

    assert {state.port: state.vlans for state in fabric.switch.ports()} == {
        a.port: PortVlans(101),
        b.port: PortVlans(101),
        other.port: PortVlans(102),
        isolated.port: ISOLATED,
    }
    assert reaches(a, b)
    assert reaches(a, leg)
    assert not reaches(other, a)
    assert not reaches(a, isolated)
    assert not reaches(isolated, a)


def test_configure_does_not_pretend_while_vswitchd_is_dead(fabric: Fabric) -> None:
    a, b = fabric.node(PortVlans(101)), fabric.node(PortVlans(101))
    fabric.kill("ovs-vswitchd")
    with closing(OvsSwitch({"database": fabric.lab.db, "timeout": 1.0}, fabric.site)) as impatient:
        for _ in range(2):  # the second time the database has it already
            start = time.monotonic()
            with pytest.raises(SwitchError, match="ovs-vswitchd") as caught:
                impatient.configure(a.port, PortVlans(102))
            assert time.monotonic() - start < 5
            assert "restart" in caught.value.next_step
            assert caught.value.transient

    fabric.lab.start()
    fabric.switch.configure(a.port, PortVlans(102))
    assert not reaches(a, b)


def test_without_the_database_nobody_reaches_anybody_and_its_return_restores_the_same(fabric: Fabric) -> None:
    a, b, isolated = fabric.node(PortVlans(101)), fabric.node(PortVlans(101)), fabric.node(ISOLATED)
    assert reaches(a, b)

    fabric.kill("ovsdb-server")
    assert not reaches(a, b)  # ovs-vswitchd does not move packets in user space while it has no database
    assert not reaches(isolated, a)

    fabric.lab.start()

    assert reaches(a, b)
    assert not reaches(isolated, a)
    fabric.switch.configure(isolated.port, PortVlans(101))
    assert reaches(isolated, a)


# --- the gateway's legs ------------------------------------------------------------------------------------


def test_a_node_reaches_the_leg_of_its_own_network_only(fabric: Fabric) -> None:
    node, leg, other_leg = fabric.node(PortVlans(101)), fabric.leg(101), fabric.leg(102)
    assert node.ping(leg.address)
    assert reaches(leg, node)
    assert not reaches(node, other_leg)
    assert not reaches(other_leg, node)
    assert not reaches(leg, other_leg)


def test_a_leg_that_changes_its_vlan_leaves_the_old_one(fabric: Fabric) -> None:
    network = new_id()
    address = IPv4Interface("10.66.0.254/24")
    node, new = fabric.node(PortVlans(101)), fabric.node(PortVlans(102))
    fabric.legs.up(network, 101, address)
    assert node.ping(address)
    fabric.legs.up(network, 102, address)
    assert not node.ping(address)
    assert new.ping(address)


def test_tcp_works_through_a_leg(fabric: Fabric) -> None:
    """Where checksums are left to a NIC that does not exist, ping works and TCP hangs."""
    node, leg = fabric.node(PortVlans(101)), fabric.leg(101)
    content = os.urandom(1 << 21)
    with netns.socket_inside(leg.namespace, socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind((str(leg.address.ip), 3260))
        server.listen()
        server.settimeout(ARRIVAL)

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(content)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            with netns.socket_inside(node.namespace, socket.AF_INET, socket.SOCK_STREAM) as client:
                client.settimeout(4 * ARRIVAL)
                client.connect((str(leg.address.ip), 3260))
                received = b""
                while chunk := client.recv(1 << 16):
                    received += chunk
        finally:
            thread.join()
    assert received == content


def test_a_leg_takes_no_router_s_advice_from_a_node(fabric: Fabric) -> None:
    node = fabric.node(PortVlans(101))
    leg = fabric.leg(101)
    before = _addresses(leg)
    prefix = bytes.fromhex("20010db8000000000000000000000000")
    option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + prefix
    advice = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + option
    with netns.socket_inside(node.namespace, socket.AF_INET6, socket.SOCK_DGRAM) as probe:
        index = int(netns.call_inside(node.namespace, lambda: socket.if_nametoindex("eth0")))
        wait_until(
            lambda: _can_send(probe, index), deadline=ARRIVAL, what="the link-local address", next_step=""
        )
    raw = netns.call_inside(
        node.namespace, lambda: socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    )
    with raw, leg.socket() as into:
        raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        raw.sendto(advice, ("ff02::1", 0, 0, index))
        assert receive(into, mark=prefix, seconds=ARRIVAL, enough=1)
    assert _addresses(leg) == before


def _can_send(probe: socket.socket, index: int) -> bool:
    try:
        probe.sendto(b"", ("ff02::1", 9, 0, index))
    except OSError:  # the address is still being checked for duplicates
        return False
    return True


def _addresses(node: Node) -> list[str]:
    shown = netns.call_inside(node.namespace, Path("/proc/thread-self/net/if_inet6").read_text)
    return sorted(line.split()[0] for line in shown.splitlines() if not line.startswith("fe80"))
