"""Makes a gateway serve what the boot records say: exports, DHCP, scripts; and takes in what nodes report.

Every `apply_` function reads the database and makes one daemon equal to it. Workflows, convergence and the
watch over daemons all call these, so there is one way for a thing to come and to go.
"""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.nodes import Milestone, NodeState
from bmi.boot.dnsmasq import BootHost
from bmi.boot.models import Boot
from bmi.boot.script import BootTarget
from bmi.boot.seed import SeedContent, build_seed
from bmi.db import now
from bmi.drivers import Outcome
from bmi.drivers.leg import Leg
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.target import Export, Lun, Portal
from bmi.events import record
from bmi.networks.models import Attachment, Network
from bmi.nodes.states import move
from bmi.parts import Parts

MILESTONES = tuple(Milestone)
"""In the order in which a boot reaches them."""

_TOKEN = "boot"  # noqa: S105 - what the derived token is good for


def boots_on(session: Session, network: UUID) -> Sequence[Boot]:
    """Return the boot records of a network."""
    return session.scalars(select(Boot).join(Attachment).where(Attachment.network_id == network)).all()


def iqn(parts: Parts, boot: Boot) -> str:
    """Return the name of the target that exports a boot's disk."""
    return f"{parts.settings.boot.iqn_prefix}:{boot.disk_id}"


def initiator(parts: Parts, boot: Boot) -> str:
    """Return the name by which a node logs in."""
    return f"{parts.settings.boot.iqn_prefix}:node-{boot.node_id}"


def seed_volume(boot: Boot) -> Volume:
    """Return the volume that holds a boot's seed."""
    return Volume(Kind.SEED, boot.id)


def boot_url(parts: Parts, boot: Boot, leaf: str) -> str:
    """Return the address, on the node's own network, of something that only this node may ask for."""
    gateway = boot.attachment.network.gateway.ip
    token = parts.vault.derive(_TOKEN, str(boot.id))
    return f"http://{gateway}:{parts.settings.boot.http_port}/boot/{boot.id}/{token}/{leaf}"


def boot_token(parts: Parts, boot: UUID) -> str:
    """Return the token that a node must show."""
    return parts.vault.derive(_TOKEN, str(boot))


def seed_content(parts: Parts, boot: Boot) -> bytes:
    """Return the content of a boot's seed volume."""
    return build_seed(
        SeedContent(
            instance_id=str(boot.id),
            hostname=boot.hostname,
            ssh_keys=tuple(boot.ssh_keys),
            user_data=boot.user_data,
            phone_home_url=boot_url(parts, boot, "phone-home"),
            mac=boot.attachment.nic.mac,
        )
    )


def boot_target(parts: Parts, boot: Boot) -> BootTarget:
    """Return what a node's boot script says."""
    return BootTarget(
        address=boot.attachment.network.gateway.ip,
        port=parts.settings.boot.iscsi_port,
        iqn=iqn(parts, boot),
        initiator=initiator(parts, boot),
        username=boot.disk_id.hex,
        password=parts.vault.open(boot.chap_secret),
        script_url=boot_url(parts, boot, "script.ipxe"),
    )


def leg_of(parts: Parts, network: Network) -> Leg:
    """Return the gateway's leg on a network, made if it is not there."""
    with parts.lock(network.id):
        if network.id not in parts.known_legs:
            parts.known_legs[network.id] = parts.legs.up(network.id, network.vlan, network.gateway)
        return parts.known_legs[network.id]


def apply_network(parts: Parts, id: UUID) -> None:
    """Make the gateway's presence on a network equal to the database: leg, targets, DHCP, scripts."""
    with parts.lock(id):
        with parts.db.read() as session:
            network = session.get(Network, id)
        if network is None or network.state == "removing":
            take_down(parts, id)
            return
        parts.known_legs.pop(id, None)
        leg_of(parts, network)
        apply_exports(parts, id)
        apply_dhcp(parts, id)


def take_down(parts: Parts, id: UUID) -> None:
    """End everything that the gateway has on a network."""
    with parts.lock(id):
        parts.node_http.stop(id)
        parts.dnsmasq.stop(id)
        parts.target.stop(id)
        parts.legs.down(id)
        parts.known_legs.pop(id, None)


def apply_exports(parts: Parts, id: UUID) -> tuple[str, ...]:
    """Make the targets on a network equal to the database.

    Returns:
        The initiators that were still logged in to an export that went away.
    """
    with parts.lock(id):
        with parts.db.read() as session:
            network = session.get_one(Network, id)
            wanted = [boot for boot in boots_on(session, id) if boot.exported]
        kept = {iqn(parts, boot) for boot in wanted}
        left: list[str] = []
        for found in parts.target.exports(id):
            if found.iqn not in kept:
                left += parts.target.remove(id, found.iqn).initiators
        if not wanted:
            parts.target.stop(id)
            return tuple(left)
        leg = leg_of(parts, network)
        portal = Portal(id, leg.address.ip, parts.settings.boot.iscsi_port, leg.namespace)
        parts.target.serve(portal, [_export(parts, boot) for boot in wanted])
        return tuple(left)


def apply_dhcp(parts: Parts, id: UUID) -> None:
    """Make DHCP and the boot scripts on a network equal to the database."""
    with parts.lock(id):
        with parts.db.read() as session:
            network = session.get_one(Network, id)
            served = [boot for boot in boots_on(session, id) if boot.served]
        leg = leg_of(parts, network)
        hosts = [
            BootHost(
                node=boot.node_id,
                mac=boot.attachment.nic.mac,
                address=boot.attachment.ip,
                hostname=boot.hostname,
                script_url=boot_url(parts, boot, "script.ipxe"),
            )
            for boot in served
        ]
        parts.node_http.serve(id, leg.namespace, str(leg.address.ip), parts.settings.boot.http_port)
        parts.dnsmasq.serve(leg, hosts)


def write_seed(parts: Parts, id: UUID) -> Outcome:
    """Write a boot's seed volume."""
    with parts.db.read() as session:
        boot = session.get_one(Boot, id)
    return parts.storage.write_seed(boot.id, seed_content(parts, boot))


def reached(session: Session, boot: Boot, milestone: Milestone, message: str, *, kind: str) -> None:
    """Note how far a node's boot came, on its timeline."""
    before = MILESTONES.index(boot.milestone) if boot.milestone else -1
    if MILESTONES.index(milestone) > before:
        boot.milestone = milestone
    record(session, kind, message, node=boot.node_id, project=boot.disk.project_id)


def came_up(session: Session, boot: Boot, hostname: str, host_keys: Sequence[str]) -> None:
    """Note that a node's operating system is up.

    A node that was given up on and came up late is well.
    """
    boot.ssh_host_keys = list(host_keys)
    seconds = f" {(now() - boot.started_at).total_seconds():.0f} s after power-on" if boot.started_at else ""
    reached(session, boot, Milestone.UP, f"operating system {hostname} is up{seconds}", kind="boot.up")
    if boot.node.state is NodeState.FAILED:
        move(boot.node, NodeState.ACTIVE)
        boot.node.problem = None


def _export(parts: Parts, boot: Boot) -> Export:
    disk = parts.storage.backing(Volume(Kind.DISK, boot.disk_id))
    seed = parts.storage.backing(seed_volume(boot))
    return Export(
        iqn=iqn(parts, boot),
        initiator=initiator(parts, boot),
        username=boot.disk_id.hex,
        password=parts.vault.open(boot.chap_secret),
        luns=(Lun(1, disk), Lun(2, seed, readonly=True)),
    )
