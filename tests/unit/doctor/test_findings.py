"""Everything that can be wrong is planted, found by its code, and mended where the table says so."""

import shutil
import threading
from collections import namedtuple
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi.access.models import Project
from bmi.access.policy import Caller
from bmi.api.doctor import Family, Repaired, Report
from bmi.api.hardware import Card, Neighbour
from bmi.api.nodes import NodeState
from bmi.boot import service as boot
from bmi.boot.dnsmasq import Lease
from bmi.boot.models import Boot
from bmi.db import Db, now
from bmi.discovery.models import Discovered
from bmi.doctor import environment, networks, operations, power
from bmi.doctor import examine as examining
from bmi.doctor.codes import TABLE, Code
from bmi.doctor.environment import Listener
from bmi.doctor.examine import examine
from bmi.doctor.foreign_dhcp import Offer
from bmi.doctor.repair import repair
from bmi.drivers.leg import Leg
from bmi.drivers.power import Bmc
from bmi.drivers.storage import Capacity, Complaint, Kind, Volume
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.target import Portal
from bmi.errors import BmcRefused, BmcUnreachable, StorageError, SwitchError
from bmi.gateways.models import Gateway
from bmi.gateways.place import Place
from bmi.gateways.supervision import Supervisor
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.networks.models import Network
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.provisioning.cleaning import clean_what_waits
from bmi.provisioning.models import Operation, Worker
from bmi.settings import Cleaning, InventorySettings
from tests.security.walk import HARDWARE

ADMIN = Caller("admin", admin=True)
N1, N2 = Bmc("bmc-n1", "u", "secret"), Bmc("bmc-n2", "u", "secret")


@dataclass
class World:
    """A service with an active node n1, a free node n2, and hands to spoil things with."""

    parts: Parts
    site: Any
    patch: pytest.MonkeyPatch

    @property
    def target(self) -> Any:
        return self.parts.gateway.target

    @property
    def boot(self) -> Boot:
        with self.parts.db.read() as session:
            return session.scalars(select(Boot)).one()

    @property
    def leg(self) -> Leg:
        network = self.boot.attachment.network_id
        return next(leg for leg in self.parts.gateway.legs.legs() if leg.network == network)

    def add(self, row: Any) -> None:
        with self.parts.db.write() as session:
            session.add(row)

    def delete(self, table: type[Any], id: UUID) -> None:
        with self.parts.db.write() as session:
            if row := session.get(table, id):
                session.delete(row)


Plant = Callable[[World], Iterator[None]]


@dataclass(frozen=True)
class Planted:
    """What can be wrong."""

    code: Code
    sow: Plant
    spoils: frozenset[str]
    """Of two that spoil the same thing, one would hide the other."""


PLANTS: list[Planted] = []


def plant(code: Code, *spoils: str) -> Callable[[Plant], Plant]:
    """Register what makes one thing wrong, and then takes it back if repair does not."""

    def register(function: Plant) -> Plant:
        PLANTS.append(Planted(code, function, frozenset(spoils)))
        return function

    return register


# --- storage -----------------------------------------------------------------------------------------------


@plant(Code.VOLUME_MISSING, "export")
def lose_a_disk(world: World) -> Iterator[None]:
    disk = world.boot.disk
    world.parts.storage.remove(Volume(Kind.DISK, disk.id))
    yield
    assert disk.image_id is not None
    world.parts.storage.clone(disk.image_id, disk.id)


@plant(Code.SEED_MISSING, "export")
def lose_a_seed(world: World) -> Iterator[None]:
    world.parts.storage.remove(Volume(Kind.SEED, world.boot.id))
    yield


@plant(Code.VOLUME_ORPHAN)
def forget_a_volume(world: World) -> Iterator[None]:
    id = new_id()
    world.parts.storage.write_seed(id, b"x" * 512)
    yield
    world.parts.storage.remove(Volume(Kind.SEED, id))


@plant(Code.STORAGE_FULL, "room")
def fill_the_storage(world: World) -> Iterator[None]:
    world.patch.setattr(world.parts.storage, "capacity", lambda: Capacity(100 << 20, 0))
    yield


@plant(Code.STORAGE_NEARLY_FULL, "room")
def nearly_fill_the_storage(world: World) -> Iterator[None]:
    world.patch.setattr(world.parts.storage, "capacity", lambda: Capacity(100 << 20, 9 << 20))
    yield


@plant(Code.STORAGE_ROOM_UNKNOWN, "room")
def end_the_manager(world: World) -> Iterator[None]:
    def unknown() -> None:
        raise StorageError("Ceph does not say how full pool bmi is", next_step="start a manager")

    world.patch.setattr(world.parts.storage, "capacity", unknown)
    yield


@plant(Code.STORAGE_BROKEN, "health")
def break_the_storage(world: World) -> Iterator[None]:
    complaint = Complaint("Ceph OSD_FULL", "1 full osd(s)", broken=True)
    world.patch.setattr(world.parts.storage, "complaints", lambda: [complaint])
    yield


@plant(Code.STORAGE_COMPLAINS, "health")
def let_the_storage_complain(world: World) -> Iterator[None]:
    complaint = Complaint("Ceph MGR_DOWN", "no active mgr", broken=False)
    world.patch.setattr(world.parts.storage, "complaints", lambda: [complaint])
    yield


# --- target ------------------------------------------------------------------------------------------------


@plant(Code.EXPORT_MISSING, "export")
def kill_a_target(world: World) -> Iterator[None]:
    world.target.stop(world.boot.id)
    yield


@plant(Code.EXPORT_DIFFERS, "export")
def let_another_initiator_in(world: World) -> Iterator[None]:
    row = world.boot
    wanted = boot.export_of(world.parts, row)
    world.target.serve(portal(world), [replace(wanted, initiator="iqn.2026-01.example:stranger")])
    yield


@plant(Code.EXPORT_FOREIGN, "export")
def serve_something_else_beside(world: World) -> Iterator[None]:
    wanted = boot.export_of(world.parts, world.boot)
    other = replace(wanted, iqn="iqn.2026-01.example:other", username="other")
    world.target.serve(portal(world), [other])
    yield


@plant(Code.SESSION_FOREIGN, "export")
def log_a_stranger_in(world: World) -> Iterator[None]:
    row = world.boot
    world.target.log_in(row.id, boot.iqn(world.parts, row), initiator="iqn.2026-01.example:stranger")
    yield


@plant(Code.TARGET_SERVER_HANGS, "export")
def hang_a_target(world: World) -> Iterator[None]:
    world.target.hang(world.boot.id)
    yield


@plant(Code.TARGET_SERVER_ORPHAN, "export")
def leave_a_target_server(world: World) -> Iterator[None]:
    wanted = boot.export_of(world.parts, world.boot)
    world.target.serve(replace(portal(world), id=new_id(), port=4000), [wanted])
    yield


def portal(world: World) -> Portal:
    row = world.boot
    return Portal(row.id, boot.gateway_address(row), boot.iscsi_port(world.parts, row), world.leg.namespace)


# --- boot --------------------------------------------------------------------------------------------------


@plant(Code.DHCP_NOT_RUNNING, "network")
def kill_dnsmasq(world: World) -> Iterator[None]:
    world.parts.gateway.dnsmasq.stop(world.leg.network)
    yield


@plant(Code.DHCP_HANGS, "network")
def hang_dnsmasq(world: World) -> Iterator[None]:
    hanging = {world.leg.namespace}
    let_the_namespace_be(world)
    world.patch.setattr(networks.tftp, "answers", lambda namespace, *_, **__: namespace not in hanging)
    world.patch.setattr(
        world.parts.gateway.dnsmasq, "end_if_hung", lambda leg: hanging.discard(leg.namespace)
    )
    yield


def let_the_namespace_be(world: World) -> None:
    """Let the doctor believe that legs have namespaces, in which all is well."""
    world.patch.setattr(networks.netns, "exists", lambda name: True)
    world.patch.setattr(networks, "listeners", lambda *_, **__: [Listener("0.0.0.0", "python3", 1)])
    world.patch.setattr(networks, "note_takers", lambda *_, **__: None)
    world.patch.setattr(networks.tftp, "answers", lambda *_, **__: True)
    world.patch.setattr(networks, "offers", lambda *_: [])


@plant(Code.DHCP_DIFFERS, "network")
def let_dnsmasq_forget(world: World) -> Iterator[None]:
    world.parts.gateway.dnsmasq.serve(world.leg, [])
    yield


@plant(Code.SCRIPTS_NOT_SERVED, "network")
def stop_the_scripts(world: World) -> Iterator[None]:
    world.parts.gateway.node_http.stop(world.leg.network)
    yield


@plant(Code.LEASE_ORPHAN, "network")
def lease_to_a_stranger(world: World) -> Iterator[None]:
    lease = Lease("52:54:00:ff:ff:ff", IPv4Address("10.64.0.9"), now())
    dnsmasq: Any = world.parts.gateway.dnsmasq
    dnsmasq.leased[world.leg.network] = [lease]
    world.patch.setattr(dnsmasq, "serve", lambda leg, hosts, **told: dnsmasq.leased.clear())
    yield


@plant(Code.LOADER_MISSING)
def remove_ipxe(world: World) -> Iterator[None]:
    settings = world.parts.settings
    moved = settings.boot.model_copy(update={"tftp_root": Path("/nonexistent")})
    world.patch.setattr(world.parts, "settings", settings.model_copy(update={"boot": moved}))
    yield


@plant(Code.DHCP_FOREIGN, "network")
def start_a_rogue(world: World) -> Iterator[None]:
    offer = Offer(IPv4Address("10.64.0.66"), IPv4Address("10.64.0.100"), "52:54:00:66:66:66")
    let_the_namespace_be(world)
    world.patch.setattr(networks, "offers", lambda *_: [offer])
    yield


# --- legs, switches, power ---------------------------------------------------------------------------------


@plant(Code.LEG_MISSING, "network")
def remove_a_leg(world: World) -> Iterator[None]:
    world.parts.gateway.legs.down(world.leg.network)
    yield


@plant(Code.LEG_INCOMPLETE, "network")
def move_a_leg(world: World) -> Iterator[None]:
    leg = world.leg
    world.parts.gateway.legs.up(leg.network, 999, leg.address)
    yield


@plant(Code.LEG_ORPHAN)
def leave_a_leg(world: World) -> Iterator[None]:
    world.parts.gateway.legs.up(new_id(), 998, IPv4Interface("10.9.9.254/24"))
    yield


@plant(Code.MTU_SMALL, "network")
def shrink_frames(world: World) -> Iterator[None]:
    legs: Any = world.parts.gateway.legs
    legs.shrink(1450)
    yield
    legs.shrink(1500)


@plant(Code.MTU_DIFFERS, "network")
def make_ends_differ(world: World) -> Iterator[None]:
    ends = {"eth0": 9000, "leg123456789abc": 1500}
    world.patch.setattr(world.parts.gateway.legs, "mtus", lambda network: ends)
    yield


@plant(Code.PORT_DIFFERS, "switch")
def isolate_a_port(world: World) -> Iterator[None]:
    world.parts.switches["sw1"].configure("port1", ISOLATED)
    yield


@plant(Code.PORT_NOT_ISOLATED, "switch")
def let_a_free_node_in(world: World) -> Iterator[None]:
    world.parts.switches["sw1"].configure("port2", PortVlans(native=77))
    yield


@plant(Code.PORT_UNKNOWN, "switch")
def lose_a_port(world: World) -> Iterator[None]:
    switch = world.parts.switches["sw1"]
    fewer = [state for state in switch.ports() if state.port != "port2"]
    world.patch.setattr(switch, "ports", lambda: fewer)
    yield


@plant(Code.CABLE_DIFFERS, "n2")
def plug_a_node_in_elsewhere(world: World) -> Iterator[None]:
    heard = Neighbour(switch="sw1", chassis="c", port="port9", description="")
    card = Card(name="eth0", mac="52:54:00:00:00:02", driver="", link=True, speed=None, neighbours=[heard])
    told = HARDWARE | {"serial": "", "cards": [card.model_dump(mode="json")]}
    with world.parts.db.write() as session:
        machine = Discovered(mac=card.mac, address="10.64.0.9", facts=told, seen_at=now())
        session.add(machine)
    yield
    with world.parts.db.write() as session:
        session.delete(session.get_one(Discovered, machine.id))


@plant(Code.PORT_WITHOUT_LINK, "cable", "switch")
def unplug_a_cable(world: World) -> Iterator[None]:
    switch: Any = world.parts.switches["sw1"]
    switch.plug("port1", None)
    yield
    switch.plug("port1", world.boot.attachment.nic.mac)


@plant(Code.CARD_ELSEWHERE, "cable", "switch")
def plug_a_cable_in_elsewhere(world: World) -> Iterator[None]:
    switch: Any = world.parts.switches["sw1"]
    switch.plug("port1", None)
    switch.plug("port40", world.boot.attachment.nic.mac)
    yield
    switch.plug("port40", None)
    switch.plug("port1", world.boot.attachment.nic.mac)


@plant(Code.LEASE_ENDED, "switch", "n1")
def take_a_node_away(world: World) -> Iterator[None]:
    world.patch.setattr("bmi.nodes.leases.FRESH", 0.0)
    assert world.parts.leases is not None
    node = world.boot.node_id
    with world.parts.db.write() as session:
        row = session.get_one(Node, node)
        row.inventory_name, row.inventory_project = "n1", "red"
    yield
    with world.parts.db.write() as session:
        row = session.get_one(Node, node)
        row.inventory_name = row.inventory_project = row.lease_ended_at = None


@plant(Code.NODE_ON_WHILE_FREE, "n2")
def switch_a_free_node_on(world: World) -> Iterator[None]:
    world.parts.powers["memory"].on(N2)
    yield
    world.parts.powers["memory"].off(N2)


@plant(Code.NODE_OFF_WHILE_ACTIVE, "n1")
def switch_an_active_node_off(world: World) -> Iterator[None]:
    world.parts.powers["memory"].off(N1)
    yield
    world.parts.powers["memory"].on(N1)


def refuse(world: World, error: Exception, bmc: Bmc = N2) -> None:
    power = world.parts.powers["memory"]
    state = power.state

    def refuse(asked: Bmc) -> Any:
        if asked.address == bmc.address:
            raise error
        return state(asked)

    world.patch.setattr(power, "state", refuse)


@plant(Code.BMC_UNREACHABLE, "n2")
def cut_a_bmc_off(world: World) -> Iterator[None]:
    world.patch.setattr(power, "stands_for_nothing", lambda name: False)
    refuse(world, BmcUnreachable("BMC bmc-n2 does not answer", next_step="look at its cable"))
    yield


@plant(Code.BMC_NAME_MISSING, "n2")
def forget_a_bmcs_name(world: World) -> Iterator[None]:
    world.patch.setattr(power, "stands_for_nothing", lambda name: name == "bmc-n2")
    refuse(world, BmcUnreachable("BMC bmc-n2 does not answer", next_step="look at its cable"))
    yield


@plant(Code.BMC_REFUSED, "n2")
def change_a_password(world: World) -> Iterator[None]:
    refuse(world, BmcRefused("BMC bmc-n2 refuses user u", next_step="correct the password"))
    yield


# --- members and operations --------------------------------------------------------------------------------


def share(world: World) -> None:
    """Let the service believe that there are others beside it."""
    world.patch.setattr(Db, "shared", True)
    with world.parts.db.write() as session:
        for row in session.scalars(select(Worker)):
            row.seen_at = now() + timedelta(days=1)
        session.get_one(Gateway, world.parts.gateway.id).seen_at = now() + timedelta(days=1)


def other_gateway(world: World, *, held: bool) -> UUID:
    id, long_ago = new_id(), now() - timedelta(hours=1)
    world.add(
        Gateway(
            id=id,
            name="other",
            number=2,
            seen_at=long_ago,
            held_by_id=world.parts.gateway.id if held else None,
        )
    )
    return id


@plant(Code.GATEWAY_SILENT, "gateways")
def end_a_gateway(world: World) -> Iterator[None]:
    share(world)
    world.patch.setattr("bmi.gateways.service.empty_places", lambda *_: [])  # nobody takes its place
    id = other_gateway(world, held=False)
    yield
    world.delete(Gateway, id)


@plant(Code.GATEWAY_REPLACED, "gateways")
def replace_a_gateway(world: World) -> Iterator[None]:
    share(world)
    id = other_gateway(world, held=True)
    yield
    world.delete(Gateway, id)


@plant(Code.WORKER_SILENT, "workers")
def end_a_worker(world: World) -> Iterator[None]:
    share(world)
    row = Worker(id=new_id(), name="gone", seen_at=now() - timedelta(hours=1))
    world.add(row)
    yield
    world.delete(Worker, row.id)


@plant(Code.NO_WORKER, "workers")
def end_all_workers(world: World) -> Iterator[None]:
    share(world)
    world.patch.setattr(operations, "members", lambda db, session: [])
    yield


@plant(Code.OPERATION_ABANDONED, "export", "workers")
def abandon_an_operation(world: World) -> Iterator[None]:
    disk = world.boot.disk
    row = Operation(
        id=new_id(),
        verb="disk.flatten",
        subject=f"disk {disk.name}",
        project_id=disk.project_id,
        asked_by="admin",
        worker="a-former-name",
        disk_id=disk.id,
        request={},
    )
    world.add(row)
    yield
    assert world.site.api.get(f"/v1/operations/{row.id}?wait=20").json()["state"] == "succeeded"


@plant(Code.NODE_UNCLEAN, "n2")
def clean_with_an_image_that_is_not_there(world: World) -> Iterator[None]:
    settings = world.parts.settings.model_copy(update={"cleaning": Cleaning(image="nowhere")})
    world.patch.setattr(world.parts, "settings", settings)
    with world.parts.db.write() as session:
        row = session.scalars(select(Node).where(Node.name == "n2")).one()
        row.state, row.dirty = NodeState.CLEANING, True
    clean_what_waits(world.parts)
    yield
    with world.parts.db.write() as session:
        row = session.scalars(select(Node).where(Node.name == "n2")).one()
        row.state, row.dirty, row.problem = NodeState.AVAILABLE, False, None


@plant(Code.NODE_STUCK, "n2")
def forget_a_provision(world: World) -> Iterator[None]:
    with world.parts.db.write() as session:
        session.scalars(select(Node).where(Node.name == "n2")).one().state = NodeState.PROVISIONING
    yield
    assert world.site.api.get("/v1/nodes/n2").json()["state"] == "available"


@plant(Code.IMAGE_STUCK)
def forget_an_image(world: World) -> Iterator[None]:
    world.add(Image(id=new_id(), name="half", state="creating", origin="build", size=512))
    yield


@plant(Code.DISK_STUCK)
def forget_a_disk(world: World) -> Iterator[None]:
    id = new_id()
    world.add(Disk(id=id, name="half", project_id=project(world), state="removing", size=512))
    world.parts.storage.clone(world.boot.disk.image_id, id)  # type: ignore[arg-type]
    yield
    assert world.parts.storage.find(Volume(Kind.DISK, id)) is None


@plant(Code.NETWORK_STUCK)
def forget_a_network(world: World) -> Iterator[None]:
    world.add(
        Network(name="half", project_id=project(world), state="creating", vlan=150, subnet="10.70.0.0/24")
    )
    yield


def project(world: World) -> UUID:
    with world.parts.db.read() as session:
        return session.scalars(select(Project.id)).one()


# --- what is around ----------------------------------------------------------------------------------------


@plant(Code.PORT_TAKEN)
def share_the_apis_port(world: World) -> Iterator[None]:
    own = Listener("0.0.0.0", "bmi", environment.os.getpid())
    world.patch.setattr(environment, "listeners", lambda *_: [own, Listener("10.0.0.5", "nginx", 4711)])
    yield


@plant(Code.PROGRAM_MISSING)
def uninstall_dnsmasq(world: World) -> Iterator[None]:
    which = shutil.which
    world.patch.setattr(shutil, "which", lambda name: None if name == "dnsmasq" else which(name))
    yield


@plant(Code.CLOCK_OFF)
def turn_the_clock(world: World) -> Iterator[None]:
    world.patch.setattr(environment, "now", lambda: datetime.now(UTC) - timedelta(seconds=5))
    yield


@plant(Code.DATABASE_NAME_MISSING)
def forget_the_databases_name(world: World) -> Iterator[None]:
    url = world.parts.db.url.set(drivername="postgresql+psycopg", host="db.example")
    world.patch.setattr(world.parts.db, "url", url)
    world.patch.setattr(environment, "stands_for_nothing", lambda name: name == "db.example")
    yield


Disks = namedtuple("Disks", "total used free")


@plant(Code.STATE_FULL, "folder")
def fill_the_state_folder(world: World) -> Iterator[None]:
    world.patch.setattr(shutil, "disk_usage", lambda path: Disks(1 << 40, 1 << 40, 1 << 20))
    yield


@plant(Code.STATE_NEARLY_FULL, "folder")
def nearly_fill_the_state_folder(world: World) -> Iterator[None]:
    world.patch.setattr(shutil, "disk_usage", lambda path: Disks(1 << 40, 1 << 40, 1 << 29))
    yield


@plant(Code.UNREADABLE, "switch")
def silence_a_switch(world: World) -> Iterator[None]:
    def silent() -> None:
        raise SwitchError("switch sw1 does not answer", next_step="look at it")

    world.patch.setattr(world.parts.switches["sw1"], "ports", silent)
    yield


# --- the tests ---------------------------------------------------------------------------------------------


@pytest.fixture
def settings(settings: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The usual settings, but nothing mends itself meanwhile."""
    monkeypatch.setattr(Supervisor, "start", lambda self: None)
    # A gateway for whom this one acts makes it look at everything again, at the next sign of life.
    monkeypatch.setattr(Place, "_beside", lambda *_: None)
    inventory = InventorySettings(driver="memory", switch="sw1", power="memory")
    return settings.model_copy(update={"convergence_interval": 3600.0, "inventory": inventory})


@pytest.fixture
def world(api: TestClient, site: Any, parts: Parts) -> Iterator[World]:
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)
    site.node("n2", 2)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    with pytest.MonkeyPatch.context() as patch:
        yield World(parts, site, patch)


@contextmanager
def planted(world: World, plants: Sequence[Planted]) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        growing = [each.sow(replace(world, patch=patch)) for each in plants]
        for each in growing:
            next(each)
        yield
        for each in growing:
            assert next(each, "ripe") == "ripe"


def rounds() -> list[list[Planted]]:
    """Return all plants, in as few rounds as there can be: to look at everything takes a while."""
    found: list[list[Planted]] = []
    for one in PLANTS:
        fitting = (each for each in found if not any(one.spoils & other.spoils for other in each))
        where = next(fitting, None)
        if where is None:
            found.append([one])
        else:
            where.append(one)
    return found


def codes(report: Report) -> set[str]:
    return {finding.code for finding in report.findings}


def test_every_code_can_be_planted() -> None:
    assert sorted(each.code for each in PLANTS) == sorted(Code)


def test_everything_is_found_by_its_code_and_mended_where_the_table_says_so(world: World) -> None:
    def never(bmc: Bmc) -> None:
        raise AssertionError("the doctor switches nothing")

    assert codes(examine(world.parts)) == set()
    for plants in rounds():
        there = {each.code for each in plants}
        with planted(world, plants), pytest.MonkeyPatch.context() as patch:
            patch.setattr(world.parts.powers["memory"], "on", never)
            if Code.NODE_STUCK not in there:  # which is reset
                patch.setattr(world.parts.powers["memory"], "off", never)
            report = examine(world.parts)
            assert codes(report) == there
            for found in report.findings:
                assert found.family is TABLE[Code(found.code)].family or found.code == Code.UNREADABLE
                assert found.severity is TABLE[Code(found.code)].severity
            mendable = {code for code in there if TABLE[code].mends and code is not Code.VOLUME_ORPHAN}
            assert {found.code for found in report.findings if found.repairable} == mendable
            repaired = repair(world.parts, ADMIN, remove_orphans=False)
            assert {found.code for found in repaired.mended} == mendable, repaired.done
            assert codes(repaired) == there - mendable, repaired.done
    assert codes(examine(world.parts)) == set()


def test_what_repair_does_not_mend_is_left_with_what_a_person_does(world: World) -> None:
    def refuse(*_: object) -> None:
        raise SwitchError("switch sw1 refuses", next_step="look at it")

    world.parts.switches["sw1"].configure("port2", PortVlans(native=77))
    world.patch.setattr(world.parts.switches["sw1"], "configure", refuse)
    world.parts.storage.remove(Volume(Kind.DISK, world.boot.disk_id))
    repaired = repair(world.parts, ADMIN, remove_orphans=False)
    assert repaired.mended == []
    assert [(one.code, one.next_step) for one in repaired.findings] == [
        ("volume-missing", TABLE[Code.VOLUME_MISSING].otherwise),
        ("port-not-isolated", "find out who else configures the switch"),
    ]


def test_volumes_of_nobody_go_only_when_that_is_asked_for(api: TestClient, world: World) -> None:
    kept = {info.volume for info in world.parts.storage.volumes()}
    for kind in (b"a", b"b"):
        world.parts.storage.write_seed(new_id(), kind * 512)
    first = Repaired.model_validate(api.post("/v1/doctor/repair", json={}).json())
    assert [one.code for one in first.findings] == ["volume-orphan"] * 2
    body = {"remove_orphans": True}
    second = Repaired.model_validate(api.post("/v1/doctor/repair", json=body).json())
    assert second.findings == []
    assert [one.code for one in second.mended] == ["volume-orphan"] * 2
    assert {info.volume for info in world.parts.storage.volumes()} == kept


def test_what_an_operation_has_claimed_is_left_alone(world: World) -> None:
    row = world.boot
    world.target.stop(row.id)
    world.parts.storage.remove(Volume(Kind.DISK, row.disk_id))
    world.parts.switches["sw1"].configure("port1", ISOLATED)
    world.parts.powers["memory"].off(N1)
    world.parts.gateway.dnsmasq.serve(world.leg, [])
    assert len(examine(world.parts, quick=True).findings) == 5
    claim = Operation(
        id=new_id(), verb="node.power", subject="node n1", asked_by="t", node_id=row.node_id, request={}
    )
    world.patch.setattr("bmi.provisioning.workers.Claims._claim", lambda *_: None)
    world.add(claim)
    assert examine(world.parts, quick=True).findings == []
    world.delete(Operation, claim.id)


def test_a_gateway_that_does_not_answer_is_a_finding(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bmi.gateways.orders.DEADLINE", 0.1)
    monkeypatch.setattr("bmi.gateways.orders.OrderTaker._take", lambda self: None)
    alone = replace(world.parts, here=None)
    report = examine(alone, quick=True)
    assert [(one.code, one.family) for one in report.findings] == [("unreadable", Family.GATEWAY)]
    assert report.inventory.disks == 1


def test_a_storage_that_does_not_answer_is_no_failure_of_the_doctor(api: TestClient, world: World) -> None:
    def silent(*_: object) -> None:
        raise StorageError("the storage is away", next_step="mount it")

    for verb in ("volumes", "capacity", "complaints", "backing", "find"):
        world.patch.setattr(world.parts.storage, verb, silent)
    answer = api.get("/v1/doctor?quick=true")
    assert answer.status_code == 200
    assert codes(Report.model_validate(answer.json())) == {"unreadable", "storage-room-unknown"}
    assert api.post("/v1/doctor/repair", json={}).status_code == 200


def test_bmcs_are_asked_side_by_side_for_a_bounded_time(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = threading.Event()
    monkeypatch.setattr(examining, "_BMC_DEADLINE", 0.3)
    monkeypatch.setattr(world.parts.powers["memory"], "state", lambda bmc: hanging.wait(30))
    report = examine(world.parts, quick=True)
    hanging.set()
    assert [(one.code, one.thing) for one in report.findings] == [
        ("bmc-unreachable", "node n1"),
        ("bmc-unreachable", "node n2"),
    ]


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://bmc1.example:8443/redfish", "bmc1.example"),
        ("bmc1", "bmc1"),
        ("bmc1.example:623", "bmc1.example"),
        ("https://10.0.0.1", None),
        ("http://[fd00::1]:80", None),
        ("fd00::1", None),
        ("10.0.0.1:623", None),
    ],
)
def test_the_name_in_a_bmcs_address(address: str, name: str | None) -> None:
    assert power.name_in(address) == name


def test_another_process_asks_the_gateway_to_look_and_to_mend(world: World) -> None:
    alone = replace(world.parts, here=None)
    world.target.stop(world.boot.id)
    world.parts.gateway.dnsmasq.stop(world.leg.network)
    report = examine(alone)
    assert codes(report) == {"export-missing", "dhcp-not-running"}
    assert (report.inventory.legs, report.inventory.exports) == (1, 0)
    repaired = repair(alone, ADMIN, remove_orphans=False)
    assert repaired.findings == []
    assert len(repaired.mended) == 2
    assert repaired.inventory.exports == 1


def test_what_comes_and_goes_while_he_looks_is_no_finding(api: TestClient, world: World) -> None:
    stop, seen = threading.Event(), list[str]()

    def look() -> None:
        while not stop.is_set():
            seen.extend(
                f"{one.code} {one.thing}: {one.message}" for one in examine(world.parts, quick=True).findings
            )

    looking = threading.Thread(target=look)
    looking.start()
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    for number in range(2):
        world.site.network(f"more{number}", "red")
        world.site.ended(api.post("/v1/nodes/n2/provision", json=body))
        world.site.ended(api.post("/v1/nodes/n2/deprovision", json={}))
        world.site.ended(api.delete(f"/v1/networks/more{number}?project=red"))
    stop.set()
    looking.join()
    assert seen == []
