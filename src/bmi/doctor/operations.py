"""Looks for what nobody works on any more: operations of dead workers, and things that are half-made for ever."""

from collections.abc import Iterator
from functools import partial

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.doctor import Family
from bmi.api.nodes import NodeState
from bmi.boot.models import Boot
from bmi.doctor.claims import Claims, claims
from bmi.doctor.codes import Code
from bmi.doctor.sheet import Check, Sheet
from bmi.gateways import service as gateways
from bmi.gateways.models import Gateway
from bmi.images.models import Disk, Image
from bmi.networks.models import Network
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.provisioning.members import members
from bmi.provisioning.models import Operation
from bmi.provisioning.workers import worker_name

Stuck = Node | Image | Disk | Network

_CODES = {
    Node: Code.NODE_STUCK,
    Image: Code.IMAGE_STUCK,
    Disk: Code.DISK_STUCK,
    Network: Code.NETWORK_STUCK,
}


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at."""
    return [
        Check(Family.OPERATION, "operations", partial(_operations, parts)),
        Check(Family.OPERATION, "workers", partial(_workers, parts)),
        Check(Family.GATEWAY, "gateways", partial(_gateways, parts)),
    ]


def abandoned(parts: Parts, session: Session) -> list[Operation]:
    """Return the operations that belong to a worker that is not alive."""
    running = session.scalars(
        select(Operation).where(Operation.ended_at.is_(None), Operation.worker.is_not(None))
    )
    alive = _alive(parts, session)
    return [row for row in running if row.worker not in alive]


def stuck(session: Session) -> list[Stuck]:
    """Return what is on its way in or out, and no operation does it."""
    claimed = claims(session)
    return list(_stuck(session, claimed))


def code_of(thing: Stuck) -> Code:
    """Return the code for a thing that is stuck."""
    return _CODES[type(thing)]


def title_of(thing: Stuck) -> str:
    """Return a thing in words."""
    return f"{type(thing).__name__.lower()} {thing.name}"


def _stuck(session: Session, claimed: Claims) -> Iterator[Stuck]:
    moving = (NodeState.PROVISIONING, NodeState.DEPROVISIONING)
    for node in session.scalars(select(Node).where(Node.state.in_(moving))):
        if node.id not in claimed:
            yield node
    booted = set(session.scalars(select(Boot.disk_id)))
    rows: list[Image | Disk | Network] = [
        *session.scalars(select(Image).where(Image.state != "ready")),
        *session.scalars(select(Disk).where(Disk.state != "ready")),
        *session.scalars(select(Network).where(Network.state != "ready")),
    ]
    for row in rows:
        # A disk of a stuck node goes or stays with the node.
        if row.id not in claimed and row.id not in booted:
            yield row


def _alive(parts: Parts, session: Session) -> set[str]:
    """Return the names of the workers that live; where there is one process, that is its own."""
    if not parts.db.shared:
        return {worker_name(parts.settings.worker.name)}
    return {row.name for row in members(parts.db, session) if row.role == "worker" and row.alive}


def _operations(parts: Parts, sheet: Sheet) -> None:
    with parts.db.read() as session:
        for row in abandoned(parts, session):
            message = f"{row.verb} of {row.subject} belongs to worker {row.worker}, which is not alive"
            sheet.note(Code.OPERATION_ABANDONED, f"operation {row.id}", message)
        for thing in stuck(session):
            message = f"is {thing.state}, and no operation runs on it"
            sheet.note(code_of(thing), title_of(thing), message)
        for node in session.scalars(
            select(Node).where(Node.state == NodeState.CLEANING, Node.problem.is_not(None))
        ):
            sheet.note(Code.NODE_UNCLEAN, title_of(node), str(node.problem))


def _workers(parts: Parts, sheet: Sheet) -> None:
    if not parts.db.shared:
        return
    with parts.db.read() as session:
        workers = [row for row in members(parts.db, session) if row.role == "worker"]
    if not any(row.alive for row in workers):
        sheet.note(Code.NO_WORKER, "workers", "none was heard of lately")
    for row in workers:
        if not row.alive:
            sheet.note(Code.WORKER_SILENT, f"worker {row.name}", f"last heard of at {row.seen_at:%F %T} UTC")


def _gateways(parts: Parts, sheet: Sheet) -> None:
    with parts.db.read() as session:
        rows = {row.id: row for row in session.scalars(select(Gateway))}
        silent = {id for id, row in rows.items() if not gateways.lives(parts.db, session, row)}
    for id in silent:
        row, message = rows[id], f"last heard of at {rows[id].seen_at:%F %T} UTC"
        if row.held_by_id is None or row.held_by_id in silent:
            sheet.note(Code.GATEWAY_SILENT, f"gateway {row.name}", message)
        else:
            message += f"; gateway {rows[row.held_by_id].name} acts for it"
            sheet.note(Code.GATEWAY_REPLACED, f"gateway {row.name}", message)
