"""What a boot record needs outside the database, and how each of it comes and goes: the steps of several workflows.

Each function reads the record anew: between two steps its node and its network may have become others.
"""

from uuid import UUID

from bmi.api.nodes import Milestone
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.boot.watch import wait_for
from bmi.consoles import service as consoles
from bmi.db import now
from bmi.drivers.power import BootDevice
from bmi.drivers.storage import Kind, Volume
from bmi.errors import DeadlineExceeded
from bmi.gateways.orders import at_gateway
from bmi.images.readiness.keys import Identity, personalise
from bmi.networks import service as networks
from bmi.networks.attachments import beside, on_node
from bmi.nodes import leases
from bmi.nodes.models import Node
from bmi.nodes.service import bmc_of, by_hand
from bmi.parts import Parts
from bmi.provisioning.engine import Run
from bmi.provisioning.image_check import appliance_of, telling

LEFT_ALONE = "left alone: the site's inventory has given the node to somebody else, or to nobody"
_LAST_WORDS = 160  # characters of what a node said last that go into a diagnosis


def load(parts: Parts, id: UUID) -> Boot:
    """Return a boot record as it is now."""
    with parts.db.read() as session:
        return session.get_one(Boot, id)


def flag(parts: Parts, id: UUID, **flags: bool) -> None:
    """Write what should exist for a boot record: `seeded`, `exported`, `served`, `attached`; and `stale`."""
    with parts.db.write() as session:
        row = session.get(Boot, id)
        for name, value in flags.items():
            if row is not None:
                setattr(row, name, value)


def power_off(parts: Parts, node: UUID) -> str:
    """Switch a node off."""
    if leases.is_lost(parts.db, parts.leases, node):
        return LEFT_ALONE
    power, bmc = bmc_of(parts, node)
    power.off(bmc)
    return "off, confirmed by the BMC"


def reset_boot(parts: Parts, node: UUID) -> str:
    """Take out of a node's controller what decides what it starts from: who had root on it could set that."""
    if leases.is_lost(parts.db, parts.leases, node):
        return LEFT_ALONE
    power, bmc = bmc_of(parts, node)
    power.reset_boot(bmc)
    return "boot override cleared, virtual drives empty, confirmed by the BMC"


def _keep(parts: Parts, record: Boot) -> None:
    """Refuse to go on with a node that the site's inventory has not given to the record's project."""
    project = None if record.cleaning else record.disk.project.name
    leases.keep(parts.db, parts.leases, record.node_id, project)


def undo_power_on(parts: Parts, node: UUID) -> str:
    """Switch off a node that may have run, and reset what it starts from."""
    return f"{power_off(parts, node)}; {reset_boot(parts, node)}"


def power_on(parts: Parts, id: UUID) -> str:
    """Have a record's node boot from the network, from its beginning."""
    record = load(parts, id)
    _keep(parts, record)
    power, bmc = bmc_of(parts, record.node_id)
    power.boot_from(bmc, BootDevice.NETWORK)
    # Who has been asked to switch it on, and did, is not asked to switch it off when this is tried again; that it
    # was off is what the step before made sure of.
    if not by_hand(parts, record.node.bmc_driver):
        power.off(bmc)
    with parts.db.write() as session:
        row = session.get_one(Boot, id)
        row.milestone, row.started_at = None, now()
        consoles.begin(session, parts, row.node)
        if parts.settings.cleaning.image and parts.settings.cleaning.automatic and not row.cleaning:
            row.node.dirty = True
    power.on(bmc)
    with parts.db.write() as session:
        row = session.get_one(Boot, id)
        boot.reached(session, row, Milestone.POWER, "power is on, confirmed by the BMC", kind="power.on")
    return "on, confirmed by the BMC"


def write_keys(run: Run, id: UUID) -> str:
    """Write host name and keys into a record's disk, where nothing in the system reads a seed."""
    parts, record = run.parts, load(run.parts, id)
    identity = Identity(
        instance_id=str(record.id),
        hostname=record.hostname,
        ssh_keys=record.ssh_keys,
        phone_home_url=boot.boot_url(parts, record, "phone-home"),
    )
    backing = parts.storage.backing(Volume(Kind.DISK, record.disk_id))
    users = personalise(appliance_of(parts.settings), backing, identity, telling(run, "keys"))
    return f"written into the disk, for {', '.join(users)}" if users else "written before"


def write_seed(parts: Parts, id: UUID) -> str:
    """Write a record's seed."""
    record = load(parts, id)
    flag(parts, id, seeded=True)
    boot.write_seed(parts, id)
    return f"host name {record.hostname}, {len(record.ssh_keys)} SSH keys"


def remove_seed(parts: Parts, id: UUID) -> str:
    """Take a boot's seed away."""
    parts.storage.remove(Volume(Kind.SEED, id))
    flag(parts, id, seeded=False)
    return "gone"


def export(parts: Parts, id: UUID) -> str:
    """Export a record's disk and seed to its node."""
    record = load(parts, id)
    if record.stale:  # a target goes on reading what it opened
        flag(parts, id, exported=False)
        at_gateway(parts, record.gateway_id, "export", id)
    flag(parts, id, exported=True, stale=False)
    at_gateway(parts, record.gateway_id, "export", id)
    return f"{boot.iqn(parts, record)} for {boot.initiator(parts, record)} only, by {record.gateway.name}"


def remove_export(parts: Parts, record: Boot) -> str:
    """Take a boot's export away."""
    flag(parts, record.id, exported=False)
    answer = at_gateway(parts, record.gateway_id, "export", record.id)
    how = "gone by force, with its whole server" if answer["forced"] else "gone"
    return f"{how}; still logged in were: {', '.join(answer['left'])}" if answer["left"] else how


def serve(parts: Parts, id: UUID) -> str:
    """Answer a record's node by DHCP and with a boot script."""
    record = load(parts, id)
    flag(parts, id, served=True)
    at_gateway(parts, record.gateway_id, "dhcp", record.attachment.network_id)
    return f"{record.attachment.nic.mac} gets {record.attachment.address}"


def remove_boot_service(parts: Parts, record: Boot) -> str:
    """Stop answering a boot's node."""
    flag(parts, record.id, served=False)
    at_gateway(parts, record.gateway_id, "dhcp", record.attachment.network_id)
    return "no lease, no script"


def attach(parts: Parts, id: UUID) -> str:
    """Put the cards of a record's node on their networks: the one that it boots on, and those beside it."""
    _keep(parts, load(parts, id))
    with parts.db.write() as session:
        record = session.get_one(Boot, id)
        record.attached = True
        for row in beside(session, record.node_id):
            row.state = "ready" if row.state == "creating" else row.state
        session.flush()
        used = {row.nic_id: row.nic for row in on_node(session, record.node_id)}
        carries = {nic: networks.vlans_of(session, nic) for nic in used}
    for nic in used:
        networks.apply_port(parts, nic)
    return "; ".join(
        f"port {card.port} of {card.switch} carries VLAN {carries[nic]}" for nic, card in used.items()
    )


def detach(parts: Parts, id: UUID, node: UUID) -> str:
    """Take all cards of a boot's node off their networks; what is to be attached stays written down."""
    flag(parts, id, attached=False)
    with parts.db.write() as session:
        for row in beside(session, node):
            row.state = "creating" if row.state == "ready" else row.state
        cards = session.get_one(Node, node).nics
    for card in cards:
        networks.apply_port(parts, card.id)
    return "isolated, confirmed by the switch"


def watch(run: Run, id: UUID) -> str:
    """Follow a boot to the milestone that an operation asks for, within its deadline."""
    try:
        return wait_for(
            run.parts,
            id,
            Milestone(run.request["until"]),
            run.request["deadline"],
            tell=lambda what, fraction: run.progress("watch", what, fraction),
            stop=run.stop_if_cancelled,
        )
    except DeadlineExceeded as error:
        raise _with_console(run.parts, load(run.parts, id), error) from error


def _with_console(parts: Parts, record: Boot, error: DeadlineExceeded) -> DeadlineExceeded:
    """Add to a diagnosis what the node said last, and where the rest of it is."""
    with parts.db.read() as session:
        words = consoles.last_words(session, record.node_id, _LAST_WORDS)
    if not words:
        return error
    return DeadlineExceeded(
        f"{error.message}; the last words on its console: {words!r}",
        next_step=f"{error.next_step}; read all of its console: bmi node console {record.node.name} --log",
    )
