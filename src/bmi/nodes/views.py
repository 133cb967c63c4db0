"""Nodes as they go over the wire."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.api import nodes as wire
from bmi.api.hardware import Hardware
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.networks.models import Attachment
from bmi.nodes.models import Node, NodeHardware
from bmi.parts import Parts
from bmi.provisioning.models import Operation


def view_node(session: Session, parts: Parts, who: Caller, row: Node) -> wire.Node:
    """Return a node, as much of it as a caller may see."""
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
        bmc=wire.Bmc(
            driver=row.bmc_driver,
            address=row.bmc_address,
            username=row.bmc_username,
            options=row.bmc_options,
        )
        if who.admin
        else None,
        nics=_nics(session, row),
        disk=record.disk.name if record else None,
        image=record.disk.image.name if record and record.disk.image else None,
        network=record.attachment.network.name if record else None,
        address=record.attachment.ip if record else None,
        portal=f"{boot.gateway_address(record)}:{boot.iscsi_port(parts, record)}" if record else None,
        gateway=record.gateway.name if record else None,
        ssh_host_keys=record.ssh_host_keys if record else [],
        operation=running,
        problem=row.problem,
        hardware=_hardware(session, who, row),
        created_at=row.created_at,
    )


def _nics(session: Session, row: Node) -> list[wire.NodeNic]:
    ids = [nic.id for nic in row.nics]
    found = session.scalars(select(Attachment).where(Attachment.nic_id.in_(ids)))
    there = {attachment.nic_id: attachment for attachment in found}
    return [
        wire.NodeNic(
            mac=nic.mac,
            switch=nic.switch,
            port=nic.port,
            network=there[nic.id].network.name if nic.id in there else None,
            address=there[nic.id].ip if nic.id in there else None,
        )
        for nic in row.nics
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
