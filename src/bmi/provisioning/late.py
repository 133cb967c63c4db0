"""What came late: an operation gave something up and ended, and then it happened after all.

A store that was asked for a clone and did not answer in time may make it a minute later; a controller may switch a
node on after it was told to switch it off. So what operations that have just ended were about is looked at again.
"""

import logging
from collections.abc import Iterator, Sequence
from datetime import timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.api.nodes import NodeState, Reset
from bmi.boot.models import Boot
from bmi.drivers.power import PowerState
from bmi.drivers.storage import Kind, Volume
from bmi.errors import InUse
from bmi.events import record
from bmi.gateways.presence import logged
from bmi.images.models import Disk, Image
from bmi.nodes.leases import is_lost
from bmi.nodes.models import Node
from bmi.nodes.service import power_state
from bmi.parts import Parts
from bmi.provisioning.deprovision import ask_reset
from bmi.provisioning.legacy import between
from bmi.provisioning.models import Operation
from bmi.provisioning.workers import OPERATIONS

log = logging.getLogger(__name__)

LATE = timedelta(minutes=15)
"""For how long after its end something that an operation gave up is looked for."""

_OFF = (NodeState.AVAILABLE, NodeState.ALLOCATED)
"""States of nodes that boot nothing."""

SYSTEM = Caller("convergence", admin=True)
"""Who asks for what nobody asked for."""


def end_late(parts: Parts) -> None:
    """End what came late; what fails is logged and tried again next time."""
    with parts.db.read() as session:
        since = parts.db.clock(session) - LATE
        ended = session.scalars(select(Operation).where(Operation.ended_at > since)).all()
        volumes = set(_given_up(session, ended))
        nodes = _free(session, ended)
    for volume in volumes:
        logged(str(volume), _end_volume, parts, volume)
    for node in nodes:
        logged(f"power of node {node}", _end_power, parts, node)


def _given_up(session: Session, ended: Sequence[Operation]) -> Iterator[Volume]:
    """Return the volumes that operations were about and that nothing refers to; ids are never used again."""
    for operation in ended:
        if operation.disk_id and session.get(Disk, operation.disk_id) is None:
            yield Volume(Kind.DISK, operation.disk_id)
            yield Volume(Kind.IMAGE, between(operation.disk_id))
        if operation.image_id and session.get(Image, operation.image_id) is None:
            yield Volume(Kind.IMAGE, operation.image_id)
        boot = operation.request.get("boot")
        if boot and session.get(Boot, UUID(boot)) is None:
            yield Volume(Kind.SEED, UUID(boot))


def _free(session: Session, ended: Sequence[Operation]) -> list[UUID]:
    """Return the nodes that operations gave back, or never got, and that nobody has booted since."""
    ids = {id for operation in ended for id in (operation.node_id, operation.second_node_id) if id}
    running = select(Operation.node_id, Operation.second_node_id).where(Operation.ended_at.is_(None))
    claimed = {id for row in session.execute(running) for id in row if id}
    free = select(Node.id).where(Node.state.in_(_OFF), Node.id.in_(ids), Node.id.not_in(claimed))
    return list(session.scalars(free))


def _end_volume(parts: Parts, volume: Volume) -> None:
    if parts.storage.find(volume) is None:
        return
    log.warning("%s came late: what asked for it had given up", volume)
    parts.storage.remove(volume)


def _end_power(parts: Parts, id: UUID) -> None:
    """Have a node that boots nothing and has power switched off, by an operation, so that nobody meets it."""
    if is_lost(parts.db, parts.leases, id) or power_state(parts, id) is PowerState.OFF:
        return
    try:
        with parts.db.write() as session:
            node = session.get(Node, id)
            if node is None or node.state not in _OFF:
                return
            record(session, "power.late", "power is on, though the node boots nothing", node=id)
            operation = ask_reset(session, SYSTEM, str(id), Reset())
            parts.signals.send(session, OPERATIONS, str(operation.id))
    except InUse:
        return  # somebody has just taken it, and begins with switching it off
