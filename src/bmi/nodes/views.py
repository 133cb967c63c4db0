"""Nodes as they go over the wire."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.api import nodes as wire
from bmi.api.hardware import Hardware
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.consoles import service as consoles
from bmi.networks.attachments import number_of, on_node
from bmi.nodes import leases
from bmi.nodes.models import Node, NodeHardware
from bmi.parts import Parts
from bmi.provisioning.models import Operation


def view_node(
    session: Session, parts: Parts, who: Caller, row: Node, lease: wire.Lease | None = None
) -> wire.Node:
    """Return a node, as much of it as a caller may see.

    Args:
        session: The session.
        parts: The parts.
        who: The caller.
        row: The node.
        lease: What the site's inventory has just said of it; what was last found if None.
    """
    if lease is None and row.lease_ended_at is not None:
        lease = wire.Lease.ENDED
    record = session.scalar(select(Boot).where(Boot.node_id == row.id))
    running = session.scalar(
        select(Operation.id).where(
            or_(Operation.node_id == row.id, Operation.second_node_id == row.id), Operation.ended_at.is_(None)
        )
    )
    return wire.Node(
        id=row.id,
        name=row.name,
        state=row.state,
        project=row.project.name if row.project else None,
        allocated=row.allocated,
        bmc=wire.Bmc(
            driver=row.bmc_driver,
            address=row.bmc_address,
            username=row.bmc_username,
            options=row.registered_options,
        )
        if who.admin
        else None,
        nics=[wire.Nic(mac=nic.mac, switch=nic.switch, port=nic.port) for nic in row.nics],
        disk=record.disk.name if record else None,
        image=record.disk.image.name if record and record.disk.image else None,
        network=record.attachment.network.name if record else None,
        address=record.attachment.ip if record else None,
        attachments=_attachments(session, row, record) if record else [],
        portal=f"{boot.gateway_address(record)}:{boot.iscsi_port(parts, record)}" if record else None,
        gateway=record.gateway.name if record else None,
        ssh_host_keys=record.ssh_host_keys if record else [],
        operation=running,
        problem=leases.problem(row, lease) or row.problem,
        lease=lease,
        console=consoles.is_recorded(session, who, row),
        hardware=_hardware(session, who, row),
        created_at=row.created_at,
    )


def _attachments(session: Session, row: Node, record: Boot) -> list[wire.Attachment]:
    return [
        wire.Attachment(
            network=there.network.name,
            network_project=there.network.project.name,
            nic=number_of(row, there.nic_id),
            mac=there.nic.mac,
            tagged=there.tagged,
            vlan=there.network.vlan,
            address=there.ip,
            boot=there.id == record.attachment_id,
            ready=record.attached if there.id == record.attachment_id else there.state == "ready",
        )
        for there in on_node(session, row.id)
    ]


def _hardware(session: Session, who: Caller, row: Node) -> Hardware | None:
    """Return what a node consists of; who is no admin does not see serial numbers and what is behind its cables."""
    known = session.scalar(select(NodeHardware.facts).where(NodeHardware.node_id == row.id))
    if known is None:
        return None
    found = Hardware.model_validate(known)
    if who.admin:
        return found
    return found.model_copy(
        update={
            "serial": "",
            "uuid": None,
            "bmc_address": None,
            "disks": [disk.model_copy(update={"serial": ""}) for disk in found.disks],
            "cards": [card.model_copy(update={"neighbours": []}) for card in found.cards],
        }
    )
