"""Mends what can be mended: what convergence does, everywhere at once, and what it does not dare to do by itself.

Nothing is switched on or off here, but for a node that is stuck and is reset; and no volume that nothing refers to
is removed unless that was asked for.
"""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.api.doctor import Repaired
from bmi.api.nodes import Reset
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.doctor import operations, storage
from bmi.doctor.codes import otherwise
from bmi.doctor.examine import asked, examine
from bmi.doctor.gateway import REPAIR
from bmi.doctor.sheet import key
from bmi.drivers.storage import Kind, Volume
from bmi.errors import BmiError, DeadlineExceeded
from bmi.gateways.orders import at_gateway
from bmi.images.models import Disk, Image
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.problems import problem
from bmi.provisioning import disks, images, networks
from bmi.provisioning.converge import converge_ports
from bmi.provisioning.deprovision import ask_reset
from bmi.provisioning.models import Operation
from bmi.provisioning.workers import OPERATIONS
from bmi.wait import wait_until

log = logging.getLogger(__name__)

_GATEWAYS = 16  # that are asked at a time
_OPERATIONS_DEADLINE = 30.0  # seconds that operations which were asked for may take before the last look
_POLL = 0.1  # seconds


def repair(parts: Parts, caller: Caller, *, remove_orphans: bool) -> Repaired:
    """Mend what differs, and look again.

    Args:
        parts: The parts of this process.
        caller: Who asks, for the operations that are needed.
        remove_orphans: Whether volumes that nothing refers to are removed, with what they hold.
    """
    before = examine(parts, quick=True)  # nobody can mend a foreign DHCP server from here
    # In this order: exports need their seeds, and what is removed last needs nothing of the rest.
    done = [
        *_seeds(parts),
        *_gateways(parts),
        *_tried("switch ports", lambda: _ports(parts)),
        *_abandoned(parts),
        *_stuck(parts, caller),
        *(_orphans(parts) if remove_orphans else ()),
    ]
    after = examine(parts)
    left = {key(found) for found in after.findings}
    return Repaired(
        findings=[otherwise(found) for found in after.findings],
        inventory=after.inventory,
        mended=[found for found in before.findings if key(found) not in left],
        done=done,
    )


def _tried(what: str, do: Callable[[], str]) -> Iterator[str]:
    """Do something whose failure must not keep the rest from being mended; yields what came of it, in words."""
    try:
        said = do()
    except Exception as error:
        if not isinstance(error, BmiError):
            log.exception("mending %s", what)
        found = problem(error)
        said = f"failed: {found.detail}; {found.next_step}"
    yield f"{what}: {said}"


def _seeds(parts: Parts) -> Iterator[str]:
    with suppress(BmiError):  # what cannot be listed is a finding of the second look
        for id in storage.missing_seeds(parts):
            yield from _tried(f"seed {id}", partial(_write_seed, parts, id))


def _write_seed(parts: Parts, id: UUID) -> str:
    boot.write_seed(parts, id)
    with parts.db.read() as session:
        needed = session.get(Boot, id) is not None
    if not needed:  # the node was given back meanwhile
        parts.storage.remove(Volume(Kind.SEED, id))
    return "written again" if needed else "not needed any more"


def _gateways(parts: Parts) -> list[str]:
    def mend(row_id: UUID) -> str:
        whole = at_gateway(parts, row_id, REPAIR, row_id)["whole"]
        return "is as the database says" if whole else "not all of it could be mended, see its log"

    rows = asked(parts)
    with ThreadPoolExecutor(_GATEWAYS) as pool:
        answers = pool.map(lambda row: list(_tried(f"gateway {row.name}", lambda: mend(row.id))), rows)
        return [line for lines in answers for line in lines]


def _ports(parts: Parts) -> str:
    converge_ports(parts)
    return "set as the database says"


def _abandoned(parts: Parts) -> Iterator[str]:
    """Let go of operations whose workers are dead; a claim's number keeps one that only slept from going on."""
    with parts.db.write() as session:
        rows = operations.abandoned(parts, session)
        for row in rows:
            theirs = update(Operation).where(Operation.id == row.id, Operation.worker == row.worker)
            session.execute(theirs.values(worker=None))
            parts.signals.send(session, OPERATIONS, str(row.id))
    for row in rows:
        yield f"operation {row.id}: let go of by worker {row.worker}"


def _stuck(parts: Parts, caller: Caller) -> Iterator[str]:
    with parts.db.read() as session:
        found = operations.stuck(session)
    asked_for: list[UUID] = []
    for thing in found:
        yield from _tried(operations.title_of(thing), partial(_ask_removal, parts, caller, thing, asked_for))
    with suppress(DeadlineExceeded):  # then they are found again, or still run
        wait_until(
            lambda: _have_ended(parts, asked_for),
            deadline=_OPERATIONS_DEADLINE,
            what="operations to end",
            next_step="",
            poll=_POLL,
        )


def _ask_removal(parts: Parts, caller: Caller, thing: operations.Stuck, asked_for: list[UUID]) -> str:
    with parts.db.write() as session:
        operation = _removal(session, caller, thing)
        parts.signals.send(session, OPERATIONS, str(operation.id))
    asked_for.append(operation.id)
    return f"{operation.verb}, operation {operation.id}"


def _removal(session: Session, caller: Caller, thing: operations.Stuck) -> Operation:
    """Ask for the operation that gives a node back, or removes what is half-made."""
    if isinstance(thing, Node):
        return ask_reset(session, caller, str(thing.id), Reset())
    if isinstance(thing, Image):
        return images.ask_delete(session, caller, str(thing.id), None)
    if isinstance(thing, Disk):
        return disks.ask_delete(session, caller, str(thing.id), None)
    return networks.ask_delete(session, caller, str(thing.id), None)


def _have_ended(parts: Parts, ids: list[UUID]) -> bool:
    with parts.db.read() as session:
        running = select(Operation.id).where(Operation.id.in_(ids), Operation.ended_at.is_(None))
        return session.scalars(running).first() is None


def _orphans(parts: Parts) -> Iterator[str]:
    with suppress(BmiError):  # what cannot be listed is a finding of the second look
        for volume in storage.orphans(parts):
            yield from _tried(str(volume), partial(_remove, parts, volume))


def _remove(parts: Parts, volume: Volume) -> str:
    parts.storage.remove(volume)
    return "removed"
