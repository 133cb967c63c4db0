"""The doctor on real daemons: what somebody spoiled by hand is found by its code, and mended where that is said.

A service with Open vSwitch, tgtd, dnsmasq and the storage `local` provisions two nodes and ends; its daemons go on.
Then nothing looks after them but the doctor.
"""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Interface
from pathlib import Path
from signal import SIGSTOP
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi import netns, processes, server
from bmi.access.policy import Caller
from bmi.access.service import ADMIN_TOKEN_FILE, bootstrap
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.doctor import networks
from bmi.doctor.codes import TABLE, Code
from bmi.doctor.examine import examine
from bmi.doctor.repair import repair
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.target import Portal
from bmi.gateways.presence import converge_gateway
from bmi.ids import new_id
from bmi.images.models import Image
from bmi.networks.models import Network
from bmi.parts import Parts
from bmi.processes import Process
from bmi.run import run
from bmi.settings import Settings
from bmi.wait import wait_until
from tests.served import LOADERS, SIZE, dismantle
from tests.wires import Node, rack, running_switch

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: run as root"),
    pytest.mark.timeout(600),
]

ADMIN = Caller("admin", admin=True)


@dataclass
class World:
    """What the service left, and hands to spoil it with."""

    parts: Parts
    switch_db: str
    switch_namespace: str
    nodes: dict[str, Node]
    loaders: Path

    def boot(self, node: str = "n1") -> Boot:
        with self.parts.db.read() as session:
            return next(row for row in session.scalars(select(Boot)) if row.node.name == node)

    @property
    def network(self) -> UUID:
        with self.parts.db.read() as session:
            return session.scalars(select(Network.id)).one()

    @property
    def namespace(self) -> str:
        (leg,) = self.parts.gateway.legs.legs()
        return leg.namespace

    @property
    def cable(self) -> str:
        """The end of the leg's cable at the switch."""
        legs: Any = self.parts.gateway.legs
        return str(legs.port(self.network))

    def dnsmasq(self) -> Process | None:
        return processes.recorded(self._dnsmasq_files / "dnsmasq.json")

    @property
    def _dnsmasq_files(self) -> Path:
        return self.parts.settings.state_dir / "boot" / str(self.network)

    def tgtd(self, node: str) -> Process | None:
        target: Any = self.parts.gateway.target
        found: Process | None = target._server(self.boot(node).id).process()
        return found

    def daemons(self) -> dict[str, Process | None]:
        return {"dnsmasq": self.dnsmasq(), "n1": self.tgtd("n1"), "n2": self.tgtd("n2")}

    def vsctl(self, *words: str) -> None:
        run(["ovs-vsctl", f"--db={self.switch_db}", *words])

    def portal(self, node: str = "n1") -> Portal:
        row = self.boot(node)
        port = boot.iscsi_port(self.parts, row)
        return Portal(row.id, boot.gateway_address(row), port, self.namespace)


Plant = Callable[[World], Iterator[None]]


@dataclass(frozen=True)
class Planted:
    codes: frozenset[Code]
    sow: Plant
    touches: frozenset[str]
    """The daemons that it ends, or that repair has to start anew."""


PLANTS: list[Planted] = []


def plant(*codes: Code, touches: str = "") -> Callable[[Plant], Plant]:
    """Register what spoils something, and then takes it back where repair does not."""

    def register(function: Plant) -> Plant:
        PLANTS.append(Planted(frozenset(codes), function, frozenset(touches.split())))
        return function

    return register


@plant(Code.EXPORT_MISSING, touches="n1")
def kill_tgtd(world: World) -> Iterator[None]:
    process = world.tgtd("n1")
    assert process is not None
    process.stop(kill=True)
    yield


@plant(Code.DHCP_NOT_RUNNING, touches="dnsmasq")
def kill_dnsmasq(world: World) -> Iterator[None]:
    process = world.dnsmasq()
    assert process is not None
    process.stop(kill=True)
    yield


@plant(Code.TARGET_SERVER_HANGS, touches="n1")
def stop_tgtd(world: World) -> Iterator[None]:
    process = world.tgtd("n1")
    assert process is not None
    process.signal(SIGSTOP)
    yield


@plant(Code.DHCP_HANGS, touches="dnsmasq")
def stop_dnsmasq(world: World) -> Iterator[None]:
    process = world.dnsmasq()
    assert process is not None
    process.signal(SIGSTOP)
    yield


@plant(Code.DHCP_DIFFERS)
def change_a_reservation(world: World) -> Iterator[None]:
    (hosts,) = Path("/run/bmi").glob(f"*/{world.network}/hosts")
    hosts.write_text("52:54:00:99:99:99,10.64.0.99\n")
    yield


@plant(Code.SCRIPTS_NOT_SERVED)
def stop_scripts(world: World) -> Iterator[None]:
    world.parts.gateway.node_http.stop(world.network)
    yield


@plant(Code.LEG_MISSING, touches="dnsmasq n1 n2")
def remove_the_leg(world: World) -> Iterator[None]:
    world.parts.gateway.legs.down(world.network)
    yield


@plant(Code.LEG_INCOMPLETE)
def take_the_legs_address(world: World) -> Iterator[None]:
    (leg,) = world.parts.gateway.legs.legs()
    run(["ip", "-n", leg.namespace, "address", "delete", str(leg.address), "dev", leg.interface])
    yield


@plant(Code.LEG_INCOMPLETE)
def move_the_leg_to_another_vlan(world: World) -> Iterator[None]:
    world.vsctl("set", "Port", world.cable, "tag=77")
    yield


@plant(Code.LEG_ORPHAN)
def leave_a_leg(world: World) -> Iterator[None]:
    world.parts.gateway.legs.up(new_id(), 998, IPv4Interface("10.9.9.254/24"))
    yield


@plant(Code.MTU_SMALL)
def shrink_the_leg(world: World) -> Iterator[None]:
    set_mtu = ["ip", "-n", world.namespace, "link", "set", "eth0", "mtu"]
    run([*set_mtu, "1400"])
    yield
    run([*set_mtu, "1500"])


@plant(Code.MTU_DIFFERS)
def widen_the_cable(world: World) -> Iterator[None]:
    set_mtu = ["ip", "-n", world.switch_namespace, "link", "set", world.cable, "mtu"]
    run([*set_mtu, "9000"])
    yield
    run([*set_mtu, "1500"])


@plant(Code.PORT_DIFFERS)
def change_a_port(world: World) -> Iterator[None]:
    world.vsctl("set", "Port", world.nodes["n1"].port, "tag=77")
    yield


@plant(Code.PORT_NOT_ISOLATED)
def let_a_free_node_in(world: World) -> Iterator[None]:
    world.vsctl("set", "Port", world.nodes["n3"].port, "tag=77", "protected=false")
    yield


@plant(Code.PORT_UNKNOWN)
def unplug_a_node(world: World) -> Iterator[None]:
    port = world.nodes["n3"].port
    world.vsctl("del-port", port)
    yield
    world.vsctl("add-port", "br0", port, "tag=4095", "vlan_mode=access", "protected=true")


@plant(Code.VOLUME_MISSING)
def lose_a_disk(world: World) -> Iterator[None]:
    disk = world.boot("n1").disk
    path = Path(world.parts.storage.backing(Volume(Kind.DISK, disk.id)).path)
    aside = path.with_suffix(".aside")
    path.rename(aside)
    yield
    aside.rename(path)


@plant(Code.SEED_MISSING)
def lose_a_seed(world: World) -> Iterator[None]:
    world.parts.storage.remove(Volume(Kind.SEED, world.boot().id))
    yield


@plant(Code.VOLUME_ORPHAN)
def forget_a_volume(world: World) -> Iterator[None]:
    with world.parts.db.read() as session:
        image = session.scalars(select(Image.id)).one()
    disk = new_id()
    world.parts.storage.clone(image, disk)
    yield
    done = repair(world.parts, ADMIN, remove_orphans=True)
    assert [one.code for one in done.mended] == ["volume-orphan"], done
    assert world.parts.storage.find(Volume(Kind.DISK, disk)) is None


@plant(Code.EXPORT_DIFFERS)
def let_another_initiator_in(world: World) -> Iterator[None]:
    wanted = boot.export_of(world.parts, world.boot())
    stranger = replace(wanted, initiator="iqn.2026-01.example:stranger")
    world.parts.gateway.target.serve(world.portal(), [stranger])
    yield


@plant(Code.EXPORT_FOREIGN)
def serve_something_else_beside(world: World) -> Iterator[None]:
    wanted = boot.export_of(world.parts, world.boot())
    other = replace(wanted, iqn="iqn.2026-01.example:other", username="other")
    world.parts.gateway.target.serve(world.portal(), [other])
    yield


@plant(Code.TARGET_SERVER_ORPHAN)
def leave_a_target_server(world: World) -> Iterator[None]:
    wanted = boot.export_of(world.parts, world.boot())
    left = replace(world.portal(), id=new_id(), port=7000)
    world.parts.gateway.target.serve(left, [wanted])
    yield


@plant(Code.LOADER_MISSING)
def remove_ipxe(world: World) -> Iterator[None]:
    file = world.loaders / LOADERS[0]
    aside = file.rename(file.with_suffix(".aside"))
    yield
    aside.rename(file)


@plant(Code.EXPORT_MISSING, Code.PORT_TAKEN, touches="n1")
def take_the_iscsi_port(world: World) -> Iterator[None]:
    portal = world.portal()
    world.parts.gateway.target.stop(portal.id)
    with taken(world, portal.port):
        yield
    assert repair(world.parts, ADMIN, remove_orphans=False).findings == []


@plant(Code.SCRIPTS_NOT_SERVED, Code.PORT_TAKEN)
def take_the_http_port(world: World) -> Iterator[None]:
    world.parts.gateway.node_http.stop(world.network)
    with taken(world, world.parts.settings.boot.http_port):
        yield
    assert repair(world.parts, ADMIN, remove_orphans=False).findings == []


@plant(Code.PORT_TAKEN)
def answer_dhcp_beside_dnsmasq(world: World) -> Iterator[None]:
    with netns.socket_inside(world.namespace, socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        other.bind(("", 67))
        yield


@contextmanager
def taken(world: World, port: int) -> Iterator[None]:
    with netns.socket_inside(world.namespace, socket.AF_INET, socket.SOCK_STREAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("0.0.0.0", port))
        other.listen()
        yield


# --- the tests ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    # Unix sockets have short paths; pytest's own folders are long.
    folder = Path(tempfile.mkdtemp(prefix="bmi-doctor-"))
    folder.chmod(0o755)  # dnsmasq serves iPXE from it as a user of its own
    loaders = folder / "tftp"
    loaders.mkdir()
    for name in LOADERS:
        shutil.copy(Path("/usr/lib/ipxe", name), loaders)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        switch = stack.enter_context(running_switch(folder))
        bench = stack.enter_context(rack(switch))
        nodes = {name: bench.node() for name in ("n1", "n2", "n3")}
        settings = Settings.model_validate(
            {
                "state_dir": folder / "state",
                "cache_dir": folder / "cache",
                "storage": {"driver": "local", "options": {"pool_size": "2GiB"}},
                "leg": {
                    "driver": "ovs",
                    "options": {"database": switch.db, "namespace": switch.namespace},
                },
                "target": {"driver": "tgt", "options": {"answer_deadline": 4}},
                "power": {"memory": {}},
                "switches": {"lab": {"driver": "ovs", "options": {"database": switch.db}}},
                "boot": {"tftp_root": loaders},
            }
        )
        stack.callback(dismantle, settings)
        provision(settings, nodes, folder)
        parts = server.build_parts(settings)
        stack.callback(parts.close)
        parts.storage.prepare()
        assert converge_gateway(parts)  # boot scripts are served by the service itself
        yield World(parts, switch.db, switch.namespace, nodes, loaders)


def provision(settings: Settings, nodes: dict[str, Node], folder: Path) -> None:
    """Run a service until two of the nodes are active."""
    parts = server.build_parts(settings)
    bootstrap(parts.db, settings.state_dir)
    token = (settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()
    with TestClient(server.build_app(parts), headers={"Authorization": f"Bearer {token}"}) as api:

        def post(path: str, body: dict[str, Any]) -> None:
            answer = api.post(f"/v1/{path}", json=body)
            assert answer.status_code in (201, 202), answer.text
            if answer.status_code == 202:
                ended = api.get(answer.headers["Location"], params={"wait": 30}).json()
                assert ended["state"] == "succeeded", ended

        image, raw = new_id(), folder / "golden.raw"
        with raw.open("wb") as file:
            file.truncate(SIZE)
        parts.storage.import_image(image, raw, lambda done, total: None)
        with parts.db.write() as session:
            session.add(Image(id=image, name="golden", state="ready", origin="import", size=SIZE))
        post("projects", {"name": "red"})
        post("networks", {"name": "net", "project": "red"})
        for name, node in nodes.items():
            bmc = {"driver": "memory", "address": f"bmc-{name}", "username": "u", "password": "secret"}
            nic = {"mac": node.mac.hex(":"), "switch": "lab", "port": node.port}
            post("nodes", {"name": name, "bmc": bmc, "nics": [nic]})
        for name in ("n1", "n2"):
            body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
            post(f"nodes/{name}/provision", body)


@pytest.fixture
def quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are not asked for foreign servers, and daemons that hang get less time: it is always the same."""
    monkeypatch.setattr(networks, "probes", lambda parts: [])
    monkeypatch.setattr(networks, "_ANSWER", 2.0)


def test_ten_and_more_inconsistencies_are_planted() -> None:
    assert len({code for planted in PLANTS for code in planted.codes}) >= 10


@pytest.mark.parametrize("planted", PLANTS, ids=lambda planted: planted.sow.__name__)
def test_what_was_spoiled_is_found_and_mended_and_nothing_else_is_touched(
    world: World, planted: Planted, quietly: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.parts.gateway.dnsmasq, "_patience", 3.0)
    assert examine(world.parts).findings == []
    before = world.daemons()
    volumes = {info.volume for info in world.parts.storage.volumes()}
    growing = planted.sow(world)
    next(growing)
    report = examine(world.parts)
    assert {finding.code for finding in report.findings} == planted.codes, report.findings
    repaired = repair(world.parts, ADMIN, remove_orphans=False)
    mendable = {code for code in planted.codes if TABLE[code].mends and Code.PORT_TAKEN not in planted.codes}
    mendable -= {Code.VOLUME_ORPHAN}
    assert {finding.code for finding in repaired.mended} == mendable, repaired
    assert {finding.code for finding in repaired.findings} == planted.codes - mendable, repaired
    for _ in growing:
        raise AssertionError("a plant yields once")
    assert examine(world.parts).findings == []
    after = world.daemons()
    assert all(after.values())
    assert {name for name in before if before[name] != after[name]} == planted.touches
    assert {info.volume for info in world.parts.storage.volumes()} == volumes


def test_a_foreign_dhcp_server_is_heard(world: World) -> None:
    rogue = world.nodes["n1"]
    words = [
        *("dnsmasq", "--keep-in-foreground", "--port=0", "--interface=eth0", "--bind-interfaces"),
        *("--conf-file=/dev/null", "--dhcp-range=10.66.0.100,10.66.0.120", "--leasefile-ro"),
    ]
    inside = ["nsenter", f"--net=/run/netns/{rogue.namespace}"]
    assert "dhcp-foreign" not in {finding.code for finding in examine(world.parts).findings}
    with subprocess.Popen([*inside, *words], stderr=subprocess.DEVNULL) as server:
        try:
            wait_until(
                lambda: run(["ss", "-Hlnu", "sport = :67"], namespace=rogue.namespace),
                deadline=10,
                what="the rogue",
                next_step="",
            )
            (found,) = examine(world.parts).findings
            assert examine(world.parts, quick=True).findings == []
        finally:
            server.terminate()
    assert (found.code, found.thing) == ("dhcp-foreign", "network net of project red")
    assert str(rogue.address.ip) in found.message
    assert rogue.mac.hex(":") in found.message
