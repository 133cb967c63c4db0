"""What really exists, beside what the database wants: the invariants of laboratory, model and stress.

Reads the drivers and the tables by itself, so that a mistake of the product's own comparison does not hide.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from sqlalchemy import select

from bmi.api.nodes import NodeState
from bmi.api.operations import Ending
from bmi.boot.models import Boot
from bmi.drivers.power import PowerState
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.images.models import Disk, Image, Upload
from bmi.legacy.models import LegacyVolume
from bmi.networks.models import Attachment, Network, NetworkShare
from bmi.nodes.models import Nic, Node
from bmi.nodes.service import power_state
from bmi.parts import Parts
from bmi.provisioning.legacy import between
from bmi.provisioning.models import Operation

_OFF = (NodeState.AVAILABLE, NodeState.ALLOCATED)


@dataclass(frozen=True)
class Difference:
    """One thing in which reality is not what the database wants."""

    kind: Literal["leaked", "missing"]
    thing: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.thing}"


def differences(parts: Parts) -> list[Difference]:
    """Compare everything that operations make. Call it when no operation runs."""
    found = [
        *_volumes(parts),
        *_exports(parts),
        *_networks(parts),
        *_ports(parts),
        *_power(parts),
        *_spool(parts),
    ]
    return sorted(found, key=str)


def broken_promises(parts: Parts) -> list[str]:
    """Say what must never be seen once all operations have ended, whatever went wrong."""
    said = []
    with parts.db.read() as session:
        said += [
            f"{row.verb} of {row.subject} has not ended, it is {row.state}"
            for row in session.scalars(select(Operation).where(Operation.ended_at.is_(None)))
        ]
        booting = {row.node_id: row for row in session.scalars(select(Boot))}
        for node in session.scalars(select(Node)):
            at_rest = (NodeState.AVAILABLE, NodeState.ALLOCATED, NodeState.ACTIVE, NodeState.FAILED)
            if node.state not in at_rest:
                said.append(f"node {node.name} is {node.state}, and nothing runs")
            if node.state is NodeState.FAILED and "; " not in (node.problem or ""):
                said.append(f"node {node.name} is failed, and does not say what to do: {node.problem}")
            if node.state is NodeState.AVAILABLE and (node.id in booting or node.project_id is not None):
                said.append(f"node {node.name} is available, and belongs to somebody")
            if node.state is NodeState.ALLOCATED and (node.id in booting or node.project_id is None):
                said.append(f"node {node.name} is allocated, and boots something, or is nobody's")
            if node.state is NodeState.ACTIVE and node.id not in booting:
                said.append(f"node {node.name} is active, and boots nothing")
    return said


def _volumes(parts: Parts) -> Iterator[Difference]:
    real = {info.volume for info in parts.storage.volumes()}
    with parts.db.read() as session:
        boots = list(session.scalars(select(Boot)))
        images = {row.id: row.state for row in session.scalars(select(Image))}
        disks = {row.id: row.state for row in session.scalars(select(Disk))}
        pending = select(LegacyVolume.disk_id).where(LegacyVolume.adopted_at.is_(None))
        adopting = [id for id in session.scalars(pending) if id is not None]
    active = {row.id for row in boots if row.node.state is NodeState.ACTIVE}
    wanted = {
        *(Volume(Kind.IMAGE, id) for id, state in images.items() if state == "ready"),
        *(Volume(Kind.DISK, id) for id, state in disks.items() if state == "ready"),
        *(Volume(Kind.SEED, id) for id in active),
    }
    # On its way in or out, with a row that says so: it may be there or not.
    allowed = {
        *(Volume(Kind.IMAGE, id) for id in images),
        *(Volume(Kind.DISK, id) for id in disks),
        *(Volume(Kind.SEED, row.id) for row in boots),
        *(Volume(Kind.IMAGE, between(id)) for id in adopting),
        *(Volume(Kind.IMAGE, between(id)) for id, state in disks.items() if state == "creating"),
    }
    yield from (Difference("missing", f"volume {volume}") for volume in wanted - real)
    yield from (Difference("leaked", f"volume {volume}") for volume in real - allowed)


def _spool(parts: Parts) -> Iterator[Difference]:
    """Uploads that are no images yet may lie there, and exports that can be fetched; nothing is on its way."""
    with parts.db.read() as session:
        exported = select(Operation.id).where(
            Operation.verb == "image.export", Operation.ending == Ending.SUCCEEDED
        )
        allowed = {
            "uploads": {str(id) for id in session.scalars(select(Upload.id))},
            "work": set[str](),
            "exports": {str(id) for id in session.scalars(exported)},
        }
    for folder, names in allowed.items():
        place = parts.settings.spool / folder
        there = {path.name for path in place.iterdir()} if place.exists() else set()
        yield from (Difference("leaked", f"{folder}/{name} in the spool") for name in there - names)


def _exports(parts: Parts) -> Iterator[Difference]:
    target = parts.gateway.target
    real = [(portal, export) for portal in target.portals() for export in target.exports(portal)]
    empty = set(target.portals()) - {portal for portal, _ in real}
    with parts.db.read() as session:
        rows = [row for row in session.scalars(select(Boot)) if row.exported]
        wanted = {row.id: parts.settings.boot.iqn_prefix + f":{row.disk_id}" for row in rows}
        nodes = {row.id: row.node.state for row in rows}
    yield from (Difference("leaked", f"server {portal} without an export") for portal in empty)
    for portal, export in real:
        if wanted.get(portal) != export.iqn:
            yield Difference("leaked", f"export {export.iqn} on {portal}")
    served = [lun.backing.path for _, export in real for lun in export.luns if not lun.readonly]
    yield from (
        Difference("leaked", f"disk {path} is exported {served.count(path)} times")
        for path in {path for path in served if served.count(path) > 1}
    )
    for id, iqn in wanted.items():
        if (id, iqn) not in [(portal, export.iqn) for portal, export in real] and nodes[
            id
        ] is NodeState.ACTIVE:
            yield Difference("missing", f"export {iqn}")


def _networks(parts: Parts) -> Iterator[Difference]:
    here = parts.gateway
    with parts.db.read() as session:
        rows = {row.id: row.state for row in session.scalars(select(Network))}
        served = {
            (row.attachment.network_id, row.attachment.nic.mac): row.node.state
            for row in session.scalars(select(Boot))
            if row.served
        }
    ready = {id for id, state in rows.items() if state == "ready"}
    for what, real in (
        ("leg", {leg.network for leg in here.legs.legs()}),
        ("dnsmasq", set(here.dnsmasq.running())),
        ("boot scripts", set(here.node_http.serving())),
    ):
        yield from (Difference("leaked", f"{what} of network {id}") for id in real - rows.keys())
        yield from (Difference("missing", f"{what} of network {id}") for id in ready - real)
    hosts = {(network, host.mac) for network, there in here.dnsmasq.hosts.items() for host in there}
    yield from (Difference("leaked", f"DHCP host {mac}") for _, mac in hosts - served.keys())
    yield from (
        Difference("missing", f"DHCP host {key[1]}")
        for key, state in served.items()
        if key not in hosts and state is NodeState.ACTIVE
    )


def _ports(parts: Parts) -> Iterator[Difference]:
    """Compare the ports with what boots over them and beside, and with whose they may be at all."""
    with parts.db.read() as session:
        booted = {row.attachment_id: row.attached for row in session.scalars(select(Boot))}
        rows = list(session.scalars(select(Attachment)))
        nics = list(session.scalars(select(Nic)))
        shared = {(row.network_id, row.project_id) for row in session.scalars(select(NetworkShare))}
    for row in rows:
        network, node = row.network, row.nic.node
        strange = row.id not in booted and node.project_id not in (network.project_id, None)
        if strange and network.visibility != "public" and (network.id, node.project_id) not in shared:
            yield Difference("leaked", f"node {node.name} is on network {network.name}, which is not for it")
    for nic in nics:
        there = [row for row in rows if row.nic_id == nic.id and booted.get(row.id, row.state == "ready")]
        native = [row.network.vlan for row in there if not row.tagged]
        tagged = frozenset(row.network.vlan for row in there if row.tagged)
        wanted = PortVlans(native[0] if native else None, tagged)
        found = parts.switches[nic.switch].port(nic.port).vlans
        if found != wanted:
            kind: Literal["leaked", "missing"] = "missing" if found == ISOLATED else "leaked"
            yield Difference(kind, f"port {nic.port} carries {found}, not {wanted}")


def _power(parts: Parts) -> Iterator[Difference]:
    with parts.db.read() as session:
        free = [row for row in session.scalars(select(Node)) if row.state in _OFF]
    for node in free:
        if power_state(parts, node.id) is not PowerState.OFF:
            yield Difference("leaked", f"power of node {node.name}, which is {node.state}")
