"""A node's local disks are wiped between two tenants: it boots an image that does it, reports, and is given back.

That image boots as any other does, from a clone, on a network of its own project. The seed tells it to wipe; where
anybody else boots it, it wipes nothing.
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned
from bmi.api.nodes import NodeState, Provision
from bmi.api.operations import Ending
from bmi.boot.models import Boot
from bmi.db import Db
from bmi.drivers.storage import Kind, Volume
from bmi.errors import BmiError, CleaningFailed, InUse, WrongState
from bmi.gateways.presence import logged
from bmi.images.models import Disk
from bmi.nodes.leases import refuse_lost
from bmi.nodes.models import Node
from bmi.nodes.states import move, release
from bmi.parts import Parts
from bmi.provisioning import boots, provision
from bmi.provisioning.deprovision import isolate
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.late import SYSTEM
from bmi.provisioning.models import Operation
from bmi.provisioning.provision import CLEAN
from bmi.provisioning.workers import OPERATIONS

_FAILED = "failed:"  # how the script `clean` of images/debian begins what went wrong


def ask(session: Session, parts: Parts, caller: Caller, ref: str) -> Operation:
    """Claim a node that is available, to have its local disks wiped.

    Raises:
        WrongState: It is not available, or the settings name no image that wipes disks.
        InUse: Another operation runs on it.
        NotFound: There is no such node, image or network.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_WRITE, project=None)
    provision.refuse_unavailable(node)
    return _begin(session, parts, caller, node)


def _begin(session: Session, parts: Parts, caller: Caller, node: Node) -> Operation:
    settings = parts.settings.cleaning
    if settings.image is None:
        raise WrongState(
            "no image wipes disks here",
            next_step="build one (bmi image build debian --cleaner --name cleaner), and name it: cleaning.image",
        )
    request = Provision(
        image=settings.image, network=settings.network, project=settings.project, deadline=settings.deadline
    )
    operation, rows = provision.write_down(session, parts, caller, node, request, verb=CLEAN)
    session.add_all(rows)
    if node.state is not NodeState.CLEANING:
        move(node, NodeState.CLEANING)
    node.dirty, node.problem = True, None
    session.flush()
    return operation


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again: with the boot that was left standing, if there is one, else from the beginning."""
    node = find_owned(session, caller, Node, str(operation.node_id), Action.NODE_WRITE, project=None)
    if node.state is not NodeState.FAILED:
        raise WrongState(f"node {node.name} is {node.state}", next_step="nothing to try again")
    record = session.get(Boot, UUID(operation.request["boot"]))
    if record is None:
        return _begin(session, parts, caller, node)
    repeated = provision.ask_onward(session, caller, operation, record, verb=CLEAN)
    move(node, NodeState.CLEANING)
    node.problem, record.cleaned = None, None
    return repeated


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how cleaning left the node: available, or else for a person to look at."""
    node = session.get_one(Node, operation.node_id)
    record = session.get(Boot, UUID(operation.request["boot"]))
    if ending in (Ending.SUCCEEDED, Ending.UNDONE):
        provision.forget(session, record, with_disk=True)
    if ending is Ending.SUCCEEDED:
        node.dirty, node.problem = False, None
        release(node)
        return
    error = operation.error or {}
    move(node, NodeState.FAILED)
    node.problem = (
        f"its local disks were not wiped: {error.get('detail')}; {error.get('next_step')}, then: "
        f"bmi op retry {operation.id}; if they hold nothing of anybody: bmi node reset {node.name} --assume-clean"
    )


@workflow(CLEAN, settle=settle, again=again)
def clean(run: Run) -> None:
    """Boot the image, hear what it has to say, and give the node back."""
    provision.provision(run)
    parts = run.parts
    record = boots.load(parts, UUID(run.request["boot"]))
    node, disk = record.node_id, record.disk_id

    def remove() -> str:
        with parts.db.write() as session:
            session.get_one(Disk, disk).state = "removing"
        parts.storage.remove(Volume(Kind.DISK, disk))
        return "gone"

    run.next_step_of_cancelled = "it is half given back"
    run.step("report", lambda: _judge(parts, record.id))
    run.step("switch off", lambda: boots.power_off(parts, node))
    run.step("leave network", lambda: isolate(parts, node))
    run.step("end boot service", lambda: boots.remove_boot_service(parts, record))
    run.step("end export", lambda: boots.remove_export(parts, record))
    run.step("remove seed", lambda: boots.remove_seed(parts, record.id))
    run.step("remove disk", remove)
    run.step("boot settings", lambda: boots.reset_boot(parts, node))


def _judge(parts: Parts, id: UUID) -> str:
    """Say what was reported of the node's disks.

    Raises:
        CleaningFailed: Nothing was, or not all of them are clean.
    """
    record = boots.load(parts, id)
    if record.cleaned is None:
        image = record.disk.image.name if record.disk.image else "that is gone"
        raise CleaningFailed(
            f"node {record.node.name} came up and reported no wiped disks; it booted the image {image}",
            next_step="let cleaning.image name one that was built with --cleaner",
        )
    if bad := [disk for disk in record.cleaned if _FAILED in disk]:
        raise CleaningFailed(
            f"not all disks of node {record.node.name} could be wiped: {'; '.join(bad)}",
            next_step="look at them, replace what is broken",
        )
    return "; ".join(record.cleaned) or "it has no local disks"


def clean_what_waits(parts: Parts) -> None:
    """Have the nodes cleaned that wait for it; where nothing is wiped any more, let them be available."""
    with parts.db.read() as session:
        waiting = _waiting(session)
    for id in waiting:
        logged(f"cleaning of node {id}", _clean_one, parts, id)


def _clean_one(parts: Parts, id: UUID) -> None:
    try:
        refuse_lost(parts.db, parts.leases, id)
        with parts.db.write() as session:
            if id not in _waiting(session):
                return
            node = session.get_one(Node, id)
            if parts.settings.cleaning.image is None:
                node.dirty, node.problem = False, None
                release(node)
                return
            operation = _begin(session, parts, SYSTEM, node)
            parts.signals.send(session, OPERATIONS, str(operation.id))
    except InUse:
        return  # another worker was faster
    except BmiError as error:
        _note(parts.db, id, error)
        raise


def _note(db: Db, id: UUID, error: BmiError) -> None:
    """Say on the node why it waits."""
    with db.write() as session:
        node = session.get(Node, id)
        if node is not None and node.state is NodeState.CLEANING:
            node.problem = f"its local disks cannot be wiped yet: {error}"


def _waiting(session: Session) -> list[UUID]:
    running = select(Operation.node_id, Operation.second_node_id).where(Operation.ended_at.is_(None))
    claimed = {id for row in session.execute(running) for id in row if id}
    nodes = select(Node.id).where(Node.state == NodeState.CLEANING).order_by(Node.id)
    return [id for id in session.scalars(nodes) if id not in claimed]
