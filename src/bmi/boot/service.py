"""Makes a gateway serve what the boot records say: exports, DHCP, scripts; and takes in what nodes report.

Every `apply_` function reads the database and makes one daemon equal to it. Workflows, convergence and the
watch over daemons all call these, so there is one way for a thing to come and to go.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.nodes import Milestone, NodeState
from bmi.boot.dnsmasq import Addressing, BootHost, NodeName
from bmi.boot.models import Boot
from bmi.boot.script import BootTarget
from bmi.boot.seed import SeedContent, SeedNetwork, build_seed
from bmi.db import now
from bmi.discovery import network as discovery
from bmi.drivers import Outcome
from bmi.drivers.leg import Leg
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.target import Export, Lun, Portal, Removal
from bmi.errors import AddressTaken, GatewayUnavailable, NotFound, TargetError
from bmi.events import record
from bmi.gateways import service as gateways
from bmi.networks import attachments
from bmi.networks.addressing import addressing, names, wiring
from bmi.networks.models import Attachment, Network
from bmi.nodes.states import move
from bmi.parts import Parts

log = logging.getLogger(__name__)

MILESTONES = tuple(Milestone)
"""In the order in which a boot reaches them."""

_ANY_ADDRESS = "0.0.0.0"  # noqa: S104
_TOKEN = "boot"  # noqa: S105 - what the derived token is good for


def boots_on(session: Session, network: UUID) -> Sequence[Boot]:
    """Return the boot records of a network, oldest first: dnsmasq is told anew where even their order differs."""
    query = select(Boot).join(Attachment).where(Attachment.network_id == network).order_by(Boot.id)
    return session.scalars(query).all()


def boots_here(parts: Parts, session: Session, network: UUID) -> list[Boot]:
    """Return the boot records of a network for which this gateway acts."""
    acting = gateways.acting(session, parts.gateway)
    return [boot for boot in boots_on(session, network) if boot.gateway_id in acting]


def iqn(parts: Parts, boot: Boot) -> str:
    """Return the name of the target that exports a boot's disk."""
    return f"{parts.settings.boot.iqn_prefix}:{boot.disk_id}"


def initiator(parts: Parts, boot: Boot) -> str:
    """Return the name by which a node logs in."""
    return f"{parts.settings.boot.iqn_prefix}:node-{boot.node_id}"


def gateway_address(boot: Boot) -> IPv4Address:
    """Return the address that a node's gateway has on the node's network, whoever acts for it."""
    return _home(boot).ip


def iscsi_port(parts: Parts, boot: Boot) -> int:
    """Return the port of a boot's export: each has its own, counted by the node's place in its network."""
    return (
        parts.settings.boot.iscsi_port
        + int(boot.attachment.ip)
        - int(boot.attachment.network.range.network_address)
    )


def portal_of(parts: Parts, boot: Boot, leg: Leg) -> Portal:
    """Return where a boot's export is served, to its node's address only."""
    return Portal(
        id=boot.id,
        address=gateway_address(boot),
        port=iscsi_port(parts, boot),
        namespace=leg.namespace,
        peer=boot.attachment.ip,
    )


def seed_volume(boot: Boot) -> Volume:
    """Return the volume that holds a boot's seed."""
    return Volume(Kind.SEED, boot.id)


def boot_url(parts: Parts, boot: Boot, leaf: str) -> str:
    """Return the address, on the node's own network, of something that only this node may ask for."""
    token = parts.vault.derive(_TOKEN, str(boot.id))
    return f"http://{gateway_address(boot)}:{parts.settings.boot.http_port}/boot/{boot.id}/{token}/{leaf}"


def boot_token(parts: Parts, boot: UUID) -> str:
    """Return the token that a node must show."""
    return parts.vault.derive(_TOKEN, str(boot))


def seed_content(parts: Parts, boot: Boot, beside: Sequence[Attachment]) -> bytes:
    """Return the content of a boot's seed volume.

    Args:
        parts: The parts.
        boot: The record.
        beside: The attachments beside the one that the node boots over.
    """
    return build_seed(
        SeedContent(
            instance_id=str(boot.id),
            hostname=boot.hostname,
            ssh_keys=tuple(boot.ssh_keys),
            user_data=boot.user_data,
            phone_home_url=boot_url(parts, boot, "phone-home"),
            mac=boot.attachment.nic.mac,
            networks=tuple(
                SeedNetwork(
                    mac=row.nic.mac,
                    address=IPv4Interface((row.ip, row.network.range.prefixlen)),
                    vlan=row.network.vlan if row.tagged else None,
                    mtu=row.network.mtu,
                )
                for row in beside
            ),
            cleaning=parts.settings.cleaning.method if boot.cleaning else None,
            wiring=wiring(
                boot.attachment.network, parts.settings.networks, boot.attachment.ip, gateway_address(boot)
            ),
        ),
        parts.texts,
    )


def boot_target(parts: Parts, boot: Boot) -> BootTarget:
    """Return what a node's boot script says."""
    return BootTarget(
        address=gateway_address(boot),
        port=iscsi_port(parts, boot),
        iqn=iqn(parts, boot),
        initiator=initiator(parts, boot),
        username=boot.disk_id.hex,
        password=parts.vault.open(boot.chap_secret),
        script_url=boot_url(parts, boot, "script.ipxe"),
    )


def leg_of(parts: Parts, network: UUID) -> Leg:
    """Return this gateway's leg on a network, with the addresses of the gateways that it acts for there.

    It has fewer where a gateway that is to be acted for still answers: then that one's nodes have to wait.

    Raises:
        GatewayUnavailable: Another gateway acts for this one, which so has nothing to do here.
        NotFound: There is no such network.
    """
    here = parts.gateway
    with parts.lock(network):
        with parts.db.read() as session:
            row = session.get(Network, network)
            if row is None:
                raise NotFound(f"there is no network {network}", next_step="nothing, it was removed")
            acting = gateways.acting(session, here)
            numbers = {
                boot.gateway.number for boot in boots_on(session, network) if boot.gateway_id in acting
            }
        if here.id not in acting:
            raise GatewayUnavailable(
                f"another gateway acts for {here.name}", next_step="wait until it gives the place back"
            )
        own = row.address_of(here.number)
        also = frozenset(row.address_of(number) for number in numbers) - {own}
        known = here.known_legs.get(network)
        if known is not None and known.also == also:
            return known
        try:
            leg = here.legs.up(network, row.vlan, own, also=also, lease=here.lease)
        except AddressTaken as error:
            log.warning("%s", error)
            here.known_legs.pop(network, None)  # so that the next call tries again
            return next(found for found in here.legs.legs() if found.network == network)
        here.known_legs[network] = leg
        return leg


def apply_network(parts: Parts, id: UUID) -> None:
    """Make this gateway's presence on a network equal to the database: leg, DHCP, boot scripts; not exports."""
    with parts.lock(id):
        with parts.db.read() as session:
            network = session.get(Network, id)
        if network is None or network.state == "removing":
            take_down(parts, id)
            return
        parts.gateway.known_legs.pop(id, None)
        leg_of(parts, id)
        apply_dhcp(parts, id)


def take_down(parts: Parts, id: UUID) -> None:
    """End everything that this gateway has on a network; no export is left there."""
    here = parts.gateway
    with parts.lock(id):
        here.node_http.stop(id)
        here.dnsmasq.stop(id)
        here.legs.down(id)
        here.known_legs.pop(id, None)


def apply_export(parts: Parts, id: UUID) -> Removal:
    """Make the target of a boot equal to the database. Every boot has a server of its own.

    Returns:
        How went away what nobody needs there.
    """
    target = parts.gateway.target
    with parts.lock(id):
        with parts.db.read() as session:
            boot = session.get(Boot, id)
            wanted = (
                boot is not None
                and boot.exported
                and boot.gateway_id in gateways.acting(session, parts.gateway)
            )
        if boot is None or not wanted:
            return _end_export(parts, id, boot)
        leg = leg_of(parts, boot.attachment.network_id)
        _require_address(leg, boot)
        _take_over_disk(parts, boot)
        portal = portal_of(parts, boot, leg)
        target.serve(portal, [export_of(parts, boot)])
        # Nothing else belongs on its server.
        strangers = [found.iqn for found in target.exports(id) if found.iqn != iqn(parts, boot)]
        removal = _removed([target.remove(id, name) for name in strangers])
        if removal.forced:
            target.serve(portal, [export_of(parts, boot)])
            _tell_force(parts, boot, removal)
        return removal


def network_boot_url(parts: Parts, gateway: IPv4Address) -> str:
    """Return where any node of a network may ask a gateway what to boot, if another server gives addresses."""
    return f"http://{gateway}:{parts.settings.boot.http_port}/boot/script.ipxe"


@dataclass(frozen=True)
class DhcpOrders:
    """What a gateway's dnsmasq is to do on a network."""

    hosts: list[BootHost]
    addressing: Addressing
    names: list[NodeName]


def dhcp_orders(parts: Parts, network: UUID, leg: Leg) -> DhcpOrders:
    """Return what this gateway's dnsmasq is to do on a network."""
    with parts.db.read() as session:
        row = session.get_one(Network, network)
        everybody = [boot for boot in boots_on(session, network) if boot.served]
        acting = gateways.acting(session, parts.gateway)
        # One gateway alone answers cards that are no node's: the one in the first one's place.
        dynamic = gateways.first(session) in acting
        discovers = discovery.network_of(session, parts.settings) == network
    hosts = _hosts(parts, [boot for boot in everybody if boot.gateway_id in acting], leg)
    here = {host.mac for host in hosts}
    told = addressing(
        row,
        parts.settings.networks,
        dynamic=dynamic,
        strangers=[boot.attachment.nic.mac for boot in everybody if boot.attachment.nic.mac not in here],
        script_url=network_boot_url(parts, leg.address.ip),
        discovery_url=discovery.script_url(parts.settings, leg.address.ip) if discovers else None,
    )
    there = [(boot.node.name, boot.attachment.ip) for boot in everybody]
    return DhcpOrders(hosts, told, names(row, parts.settings.networks, there))


def _hosts(parts: Parts, boots: Sequence[Boot], leg: Leg) -> list[BootHost]:
    return [
        BootHost(
            node=boot.node_id,
            mac=boot.attachment.nic.mac,
            address=boot.attachment.ip,
            hostname=boot.hostname,
            script_url=boot_url(parts, boot, "script.ipxe"),
        )
        for boot in boots
        # A node whose gateway still answers is answered by that one.
        if _home(boot) in leg.addresses
    ]


def apply_dhcp(parts: Parts, id: UUID) -> None:
    """Make DHCP and the boot scripts of this gateway on a network equal to the database."""
    here = parts.gateway
    with parts.lock(id):
        leg = leg_of(parts, id)
        orders = dhcp_orders(parts, id, leg)
        # Whatever addresses the leg has: nothing else is in its namespace.
        here.node_http.serve(id, leg.namespace, _ANY_ADDRESS, parts.settings.boot.http_port)
        here.dnsmasq.serve(leg, orders.hosts, addressing=orders.addressing, names=orders.names)


def write_seed(parts: Parts, id: UUID) -> Outcome:
    """Write a boot's seed volume."""
    with parts.db.read() as session:
        boot = session.get_one(Boot, id)
        told = [row for row in attachments.beside(session, boot.node_id) if row.state != "removing"]
    return parts.storage.write_seed(boot.id, seed_content(parts, boot, told))


def reached(session: Session, boot: Boot, milestone: Milestone, message: str, *, kind: str) -> None:
    """Note how far a node's boot came, on its timeline."""
    before = MILESTONES.index(boot.milestone) if boot.milestone else -1
    if MILESTONES.index(milestone) > before:
        boot.milestone = milestone
    record(session, kind, message, node=boot.node_id, project=boot.disk.project_id)


def came_up(
    session: Session,
    boot: Boot,
    hostname: str,
    host_keys: Sequence[str],
    cleaned: Sequence[str] | None = None,
) -> None:
    """Note that a node's operating system is up.

    A node that was given up on and came up late is well.

    Args:
        session: The transaction.
        boot: Its record.
        hostname: What it calls itself.
        host_keys: Its SSH host keys.
        cleaned: What it says of each of its local disks, if it was to wipe them.
    """
    boot.ssh_host_keys = list(host_keys)
    boot.cleaned = None if cleaned is None or not boot.cleaning else list(cleaned)
    seconds = f" {(now() - boot.started_at).total_seconds():.0f} s after power-on" if boot.started_at else ""
    reached(session, boot, Milestone.UP, f"operating system {hostname} is up{seconds}", kind="boot.up")
    if boot.node.state is NodeState.FAILED and not boot.cleaning:
        move(boot.node, NodeState.ACTIVE)
        boot.node.problem = None


def _home(boot: Boot) -> IPv4Interface:
    return boot.attachment.network.address_of(boot.gateway.number)


def _require_address(leg: Leg, boot: Boot) -> None:
    """Refuse to serve a disk where its node does not look for it.

    Raises:
        AddressTaken: The address could not be taken over.
    """
    if _home(boot) not in leg.addresses:
        raise AddressTaken(
            f"the disk of node {boot.node.name} cannot be served: "
            f"gateway {boot.gateway.name} is not heard of, but answers at {gateway_address(boot)}",
            next_step=f"start its service again (bmi gateway), or switch {boot.gateway.name} off",
        )


def _take_over_disk(parts: Parts, boot: Boot) -> None:
    """Cut off another gateway that had a disk, dead or not: from now on nothing that it writes arrives.

    What this gateway's own servers left of theirs is the target driver's business.
    """
    here = parts.gateway
    if boot.exported_by_id == here.id:
        return
    if boot.exported_by_id is not None and (cut_off := parts.storage.fence(Volume(Kind.DISK, boot.disk_id))):
        log.warning("disk %s is served here now, cut off were: %s", boot.disk_id, ", ".join(cut_off))
    with parts.db.write() as session:
        session.get_one(Boot, boot.id).exported_by_id = here.id


def _end_export(parts: Parts, id: UUID, boot: Boot | None) -> Removal:
    """End the server of a boot, whose record may be gone, with everything on it."""
    target = parts.gateway.target
    removals = [target.remove(id, iqn(parts, boot))] if boot is not None else []
    try:
        removals += [target.remove(id, found.iqn) for found in target.exports(id)]
    except TargetError as error:  # it hangs, and nobody knows whose it was
        log.warning("%s; it is ended", error.message)
    target.stop(id)
    removal = _removed(removals)
    if boot is not None and removal.forced:
        _tell_force(parts, boot, removal)
    return removal


def _removed(removals: Sequence[Removal]) -> Removal:
    """Return several removals as one."""
    return Removal(
        Outcome.DONE if any(each.outcome is Outcome.DONE for each in removals) else Outcome.ALREADY,
        tuple(sorted({name for each in removals for name in each.initiators})),
        forced=any(each.forced for each in removals),
    )


def _tell_force(parts: Parts, boot: Boot, removal: Removal) -> None:
    """Write on a node's timeline that its export did not go by itself."""
    who = ", ".join(removal.initiators) or "nobody"
    with parts.db.write() as session:
        record(
            session,
            "export.forced",
            f"{iqn(parts, boot)} was ended by force, with its whole server; still logged in: {who}",
            node=boot.node_id,
            project=boot.disk.project_id,
        )


def export_of(parts: Parts, boot: Boot) -> Export:
    """Return a boot's export as it should be.

    Raises:
        NotFound: The storage does not have one of its volumes.
        StorageError: The storage cannot be read.
    """
    disk = parts.storage.backing(Volume(Kind.DISK, boot.disk_id))
    seed = parts.storage.backing(seed_volume(boot))
    return Export(
        iqn=iqn(parts, boot),
        initiator=initiator(parts, boot),
        username=boot.disk_id.hex,
        password=parts.vault.open(boot.chap_secret),
        luns=(Lun(1, disk), Lun(2, seed, readonly=True)),
    )
