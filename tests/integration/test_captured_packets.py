"""What arrives at one tenant's port while another tenant's node comes and goes, and everything fails that can.

A service in a process of its own attaches and detaches one node, for two tenants in turn, fifty times in all.
Meanwhile that node sends whatever it likes, and so does the one of a third tenant, which stays; both hear all that
arrives at their ports. The service is killed in the middle of operations, ovs-vswitchd too, and the switch's
database stands still.
"""

import json
import os
import random
import select
import signal
import socket
import struct
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from bmi import processes
from bmi.drivers.openvswitch.bridge import QUARANTINE
from bmi.lab.openvswitch import OpenVSwitch
from bmi.wait import wait_until
from tests.served import GOLDEN, Served, served
from tests.wires import BROADCAST, Node, rack, reaches, running_switch, tag

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root"),
    pytest.mark.timeout(1500),
]

CYCLES = 50
PAUSE = 0.01  # seconds between two rounds of frames
STILL = 4.0  # seconds for which the switch's database does not answer; longer than the driver waits
MULTICAST = bytes.fromhex("01005e0000fb")


class Sender(threading.Thread):
    """Sends, from one node, all that might get somewhere: to everybody, to another node, with any tags."""

    def __init__(self, node: Node, other: Node, mark: bytes, vlans: list[int]) -> None:
        super().__init__(daemon=True)
        self._node, self._over = node, threading.Event()
        tags = [b"", tag(0), *map(tag, vlans), *(tag(one) + tag(two) for one in vlans for two in vlans)]
        self._frames = [
            node.frame(mark, to=to, tags=each)
            for each in tags
            for to in (BROADCAST, MULTICAST, other.mac, b"\x33\x33\0\0\0\1")
        ] + [_arp(node, other), _arp(other, node)]  # once under its own address, once under the other one's
        self.sent = 0

    def run(self) -> None:
        with self._node.socket() as out:
            out.setblocking(True)
            while not self._over.wait(PAUSE):
                for frame in self._frames:
                    try:
                        out.send(frame)
                        self.sent += 1
                    except OSError:  # the cable is out while the switch restarts
                        break

    def stop(self) -> None:
        self._over.set()
        self.join()


class Capture(threading.Thread):
    """Hears everything that arrives at a node's port."""

    def __init__(self, node: Node) -> None:
        super().__init__(daemon=True)
        self._raw, self._over = node.socket(), threading.Event()
        self.heard: Counter[bytes] = Counter()
        """How many frames came from each address."""
        self.content: list[bytes] = []
        """Of those that no BMI sends: what carries a mark."""

    def run(self) -> None:
        while not self._over.is_set():
            if not select.select([self._raw], [], [], 0.1)[0]:
                continue
            data, _, _, sender = self._raw.recvmsg(2048, 256)
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            self.heard[data[6:12]] += 1
            if b"mark-" in data:
                self.content.append(data)

    def stop(self) -> None:
        self._over.set()
        self.join()
        self._raw.close()


def _arp(sender: Node, target: Node) -> bytes:
    addresses = (sender.address.ip.packed, target.address.ip.packed)
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + sender.mac + addresses[0] + bytes(6) + addresses[1]
    return BROADCAST + sender.mac + struct.pack("!H", 0x0806) + body.ljust(46, b"\0")


@contextmanager
def history(switch: OpenVSwitch, port: str) -> Iterator[list[int]]:
    """Give the VLANs that a port has had one after the other, as the switch's database tells whoever asks it to."""
    words = ["ovsdb-client", "-f", "json", "monitor", switch.db, "Open_vSwitch", "Port", "name,tag,trunks"]
    found: list[int] = []
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        output = process.stdout
        assert output is not None

        def read() -> None:
            for line in output:
                for row in json.loads(line)["data"]:
                    _, action, name, vlan, trunks = row
                    if name == port and action in ("initial", "insert", "new"):
                        assert trunks == ["set", []], row
                        found.append(vlan if isinstance(vlan, int) else -1)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            yield found
        finally:
            process.terminate()
            reader.join(10)


@dataclass
class Faults:
    """What was done to the service and its switch, and how often."""

    service: Served
    switch: OpenVSwitch
    counts: Counter[str] = field(default_factory=Counter)

    def during(self, number: int, answer: Any) -> None:
        """Let something fail while an operation runs."""
        match number % 5:
            case 1:
                self.counts["service killed"] += 1
                time.sleep(random.uniform(0.0, 0.5))
                self.service.kill()
                self.service.start()
            case 2:
                self.counts["ovs-vswitchd killed"] += 1
                time.sleep(random.uniform(0.0, 0.3))
                self._daemon("ovs-vswitchd").stop(kill=True)
                time.sleep(0.2)
                self.switch.start()
            case 3:
                self.counts["the switch's database stood still"] += 1
                process = self._daemon("ovsdb-server")
                os.kill(process.pid, signal.SIGSTOP)
                try:
                    time.sleep(STILL)
                finally:
                    os.kill(process.pid, signal.SIGCONT)
            case _:
                self.counts["nothing"] += 1
        assert answer.status_code == 202

    def _daemon(self, name: str) -> processes.Process:
        found = processes.recorded(self.switch.directory / f"{name}.json")
        assert found is not None
        return found


def test_nothing_of_one_tenant_arrives_at_another_ones_port(tmp_path: Path) -> None:
    with running_switch(tmp_path) as switch, rack(switch) as bench, served(switch) as service:
        staying, peer, moving = (bench.node() for _ in range(3))
        vlans = {name: _tenant(service, name) for name in ("a", "b", "c")}
        for name, node in (("stays", staying), ("peer", peer), ("moves", moving)):
            _register(service, name, node)
        for name in ("stays", "peer"):
            assert _attach(service, name, "a")["state"] == "succeeded"
        assert reaches(peer, staying)  # what is let through is heard

        faults = Faults(service, switch)
        senders = [
            Sender(moving, staying, b"mark-moving", list(vlans.values())),
            Sender(staying, moving, b"mark-staying", list(vlans.values())),
        ]
        captures = [Capture(staying), Capture(moving)]
        with history(switch, moving.port) as ports:
            for each in (*captures, *senders):
                each.start()
            ended: Counter[str] = Counter()
            for number in range(CYCLES):
                tenant = "bc"[number % 2]
                body = {"image": GOLDEN, "network": f"net-{tenant}", "project": tenant, "until": "power"}
                asked = service.ask("POST", "nodes/moves/provision", json=body)
                faults.during(number, asked)
                ended[f"attach {service.ended(asked)['state']}"] += 1
                asked = service.ask("POST", "nodes/moves/reset", json={})
                faults.during(number + 2, asked)
                ended[f"detach {service.ended(asked)['state']}"] += 1
                wait_until(
                    lambda: _free(service), deadline=120, what="the node to be free", next_step="see the log"
                )
            for each in (*senders, *captures):
                each.stop()
        print(f"{CYCLES} cycles: {dict(ended)}; {dict(faults.counts)}")
        print(f"frames sent by the moving node: {senders[0].sent}, by the one that stays: {senders[1].sent}")
        heard = {mac.hex(":"): count for mac, count in captures[0].heard.items()}
        print(f"frames heard by the one that stays, by sender: {heard}")
        print(f"VLANs of the moving port: {len(ports)} changes, {dict(Counter(ports))}")

        assert captures[0].heard[moving.mac] == captures[1].heard[staying.mac] == 0
        assert [data for data in captures[0].content if b"mark-moving" in data] == []
        assert [data for data in captures[1].content if b"mark-staying" in data] == []
        assert senders[0].sent > 10_000
        assert senders[1].sent > 10_000
        # It was in both tenants' networks, and out of all of them in between, each time.
        assert set(ports) == {QUARANTINE, vlans["b"], vlans["c"]}
        assert [pair for pair in pairwise(ports) if QUARANTINE not in pair and pair[0] != pair[1]] == []
        assert ended["attach succeeded"] > CYCLES // 2
        assert reaches(peer, staying)
        assert service.ask("GET", "nodes/stays").json()["state"] == "active"


def _tenant(service: Served, name: str) -> int:
    """Make a project with a network, and return its VLAN."""
    assert service.ask("POST", "projects", json={"name": name}).status_code == 201
    made = service.ended(service.ask("POST", "networks", json={"name": f"net-{name}", "project": name}))
    assert made["state"] == "succeeded", made
    return int(service.ask("GET", f"networks/net-{name}").json()["vlan"])


def _register(service: Served, name: str, node: Node) -> None:
    nics = [{"mac": node.mac.hex(":"), "switch": "lab", "port": node.port}]
    body = {"name": name, "bmc": {"driver": "memory", "address": f"bmc-{name}"}, "nics": nics}
    assert service.ask("POST", "nodes", json=body).status_code == 201


def _attach(service: Served, node: str, tenant: str) -> dict[str, Any]:
    body = {"image": GOLDEN, "network": f"net-{tenant}", "project": tenant, "until": "power"}
    return service.ended(service.ask("POST", f"nodes/{node}/provision", json=body))


def _free(service: Served) -> bool:
    """Say whether the moving node can be taken again; if an operation could not finish, ask for it once more."""
    node = service.ask("GET", "nodes/moves").json()
    if node["state"] == "available":
        return True
    if node["operation"] is None:
        service.ended(service.ask("POST", "nodes/moves/reset", json={}))
    return False
