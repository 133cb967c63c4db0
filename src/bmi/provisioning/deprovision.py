"""A node is given back clean: by its user (deprovision), or from whatever state it is in (reset).

One that is allocated stays with its project then; that it is anybody's again is a verb of its own (release). All of
them only go forward; every step can be repeated.
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned
from bmi.api.nodes import Deprovision, NodeState, Reset
from bmi.api.operations import Ending
from bmi.boot.models import Boot
from bmi.drivers.storage import Kind, Volume
from bmi.errors import InUse, WrongState
from bmi.networks.attachments import beside
from bmi.networks.service import apply_port
from bmi.nodes.models import Node
from bmi.nodes.states import move, release
from bmi.parts import Parts
from bmi.provisioning.boots import (
    power_off,
    remove_boot_service,
    remove_export,
    remove_seed,
    reset_boot,
)
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.provision import forget, leave_networks
from bmi.provisioning.service import ask as ask_operation

RELEASE = "node.release"
"""The verb by which a node that was allocated becomes anybody's again."""


def ask(session: Session, caller: Caller, ref: str, request: Deprovision) -> Operation:
    """Claim a node that is to be given back.

    Raises:
        WrongState: It is not in use.
        InUse: Another operation runs on it.
        NotFound: There is no such node for this caller.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    operation = _ask(session, caller, node, "node.deprovision", keep_disk=request.keep_disk)
    if node.state in (NodeState.AVAILABLE, NodeState.CLEANING):
        raise WrongState(f"node {node.name} is {node.state}", next_step="nothing to give back")
    if node.state is NodeState.ALLOCATED:
        raise WrongState(
            f"node {node.name} is allocated, and boots nothing",
            next_step=f"give it back: bmi node release {node.name}",
        )
    move(node, NodeState.DEPROVISIONING)
    return operation


def ask_reset(session: Session, caller: Caller, ref: str, request: Reset) -> Operation:
    """Claim a node that is to become available, whatever its record says.

    Raises:
        NotAllowed: It belongs to no project, or is only said to be off or clean, and the caller is no admin.
        InUse: An operation runs on it.
        NotFound: There is no such node for this caller.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    if node.project_id is None or request.assume_off or request.assume_clean:
        authorize(caller, Action.NODE_WRITE, node.project_id, thing=f"node {node.name}")
    operation = _ask(
        session,
        caller,
        node,
        "node.reset",
        keep_disk=not request.remove_disk,
        assume_off=request.assume_off,
        release=request.release,
    )
    node.dirty = node.dirty and not request.assume_clean
    move(node, NodeState.DEPROVISIONING)
    return operation


def ask_release(session: Session, caller: Caller, ref: str) -> Operation:
    """Claim a node that is allocated and boots nothing, to be anybody's again.

    Raises:
        WrongState: It is not allocated.
        InUse: It boots something, or another operation runs on it.
        NotFound: There is no such node for this caller.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    if not node.allocated:
        raise WrongState(
            f"node {node.name} is {node.state}, and not allocated to a project",
            next_step=f"see whose it is: bmi node show {node.name}",
        )
    if session.scalar(select(Boot.id).where(Boot.node_id == node.id)):
        raise InUse(
            f"node {node.name} is {node.state}",
            next_step=f"take what it boots away first: bmi node deprovision {node.name}",
        )
    operation = _ask(session, caller, node, RELEASE, keep_disk=False, release=True)
    move(node, NodeState.DEPROVISIONING)
    return operation


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a node to be given back."""
    keep, node = operation.request["keep_disk"], str(operation.node_id)
    if operation.verb == RELEASE:
        return ask_release(session, caller, node)
    if operation.verb == "node.deprovision":
        return ask(session, caller, node, Deprovision(keep_disk=keep))
    assume_off, released = operation.request["assume_off"], operation.request.get("release", False)
    request = Reset(remove_disk=not keep, assume_off=assume_off, release=released)
    return ask_reset(session, caller, node, request)


def _ask(
    session: Session,
    caller: Caller,
    node: Node,
    verb: str,
    *,
    keep_disk: bool,
    assume_off: bool = False,
    release: bool = False,
) -> Operation:
    record = session.scalar(select(Boot).where(Boot.node_id == node.id))
    keep = keep_disk and record is not None and record.disk.state == "ready"  # half a disk is not kept
    operation = ask_operation(
        session,
        caller,
        verb,
        f"node {node.name}",
        project=node.project_id,
        node=node.id,
        disk=record.disk_id if record else None,
        request={
            "boot": str(record.id) if record else None,
            "keep_disk": keep_disk,
            "keep": keep,
            "assume_off": assume_off,
            "release": release,
        },
        result={"node": node.name} | ({"disk": record.disk.name} if record and keep else {}),
    )
    if record is not None and not keep:
        record.disk.state = "removing"
    node.problem = None
    return operation


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how giving it back left the node."""
    node = session.get_one(Node, operation.node_id)
    if ending is not Ending.SUCCEEDED:
        error = operation.error or {}
        move(node, NodeState.FAILED)
        node.problem = (
            f"{error.get('detail')}; {error.get('next_step')}, then: bmi op retry {operation.id}; "
            f"if its BMC is dead and the node is off: bmi node reset {node.name} --assume-off"
        )
        return
    if operation.request["boot"]:
        record = session.get(Boot, UUID(operation.request["boot"]))
        forget(session, record, with_disk=not operation.request["keep"])
    leave_networks(session, node.id)
    if operation.request.get("release"):
        node.allocated = False
    release(node)


@workflow("node.deprovision", settle=settle, again=again)
@workflow("node.reset", settle=settle, again=again)
@workflow(RELEASE, settle=settle, again=again)
def take_back(run: Run) -> None:
    """Take a node back.

    Power goes first, so that nobody writes to a disk that is being taken away; the BMC's settings last, so that a
    controller that does not reset them keeps nobody from his disk.
    """
    parts, node = run.parts, run.operation.node_id
    assert node is not None  # noqa: S101 - the claim of these verbs
    run.next_step_of_cancelled = "it is half given back"

    def off() -> str:
        if run.request["assume_off"]:
            return "not asked for: somebody said that it is off"
        return power_off(parts, node)

    run.step("power off", off)

    def boot_settings() -> str:
        if run.request["assume_off"]:
            return "not asked for: its BMC is taken for dead"
        return reset_boot(parts, node)

    run.step("network", lambda: isolate(parts, node))
    if run.request["boot"] is not None:
        _take_boot_away(run, UUID(run.request["boot"]))
    run.step("boot settings", boot_settings)


def _take_boot_away(run: Run, id: UUID) -> None:
    parts = run.parts
    with parts.db.read() as session:
        record = session.get_one(Boot, id)

    def disk() -> str:
        if run.request["keep"]:
            return f"{record.disk.name} is kept"
        parts.storage.remove(Volume(Kind.DISK, record.disk_id))
        return f"{record.disk.name} is gone"

    run.step("boot service", lambda: remove_boot_service(parts, record))
    run.step("export", lambda: remove_export(parts, record))
    run.step("seed", lambda: remove_seed(parts, record.id))
    run.step("disk", disk)


def isolate(parts: Parts, id: UUID) -> str:
    """Take all of a node's cards off all networks."""
    with parts.db.write() as session:
        node = session.get_one(Node, id)
        if record := session.scalar(select(Boot).where(Boot.node_id == id)):
            record.attached = False
        for row in beside(session, id):
            row.state = "removing"
    for nic in node.nics:
        apply_port(parts, nic.id)
    return "isolated, confirmed by the switch"
