"""Deprovision: a node is given back clean. It only goes forward; every step can be repeated."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned
from bmi.api.nodes import Deprovision, NodeState
from bmi.boot.models import Boot
from bmi.drivers.storage import Kind, Volume
from bmi.errors import WrongState
from bmi.nodes.models import Node
from bmi.nodes.service import bmc_of
from bmi.nodes.states import move
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.journal import Ending
from bmi.provisioning.models import Operation
from bmi.provisioning.provision import detach, forget, remove_boot_service, remove_export, remove_seed
from bmi.provisioning.service import ask as ask_operation


def ask(session: Session, caller: Caller, ref: str, request: Deprovision) -> Operation:
    """Claim a node that is to be given back.

    Raises:
        WrongState: It is not in use.
        InUse: Another operation runs on it.
        NotFound: There is no such node for this caller.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    record = session.scalar(select(Boot).where(Boot.node_id == node.id))
    operation = ask_operation(
        session,
        caller,
        "node.deprovision",
        f"node {node.name}",
        project=node.project_id,
        node=node.id,
        disk=record.disk_id if record else None,
        request={"boot": str(record.id) if record else None, "keep_disk": request.keep_disk},
        result={"node": node.name} | ({"disk": record.disk.name} if record and request.keep_disk else {}),
    )
    if node.state is NodeState.AVAILABLE:
        raise WrongState(f"node {node.name} is {node.state}", next_step="nothing to give back")
    move(node, NodeState.DEPROVISIONING)
    node.problem = None
    return operation


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how a deprovision left the node."""
    node = session.get_one(Node, operation.node_id)
    if ending is not Ending.SUCCEEDED:
        error = operation.error or {}
        move(node, NodeState.FAILED)
        node.problem = (
            f"{error.get('detail')}; {error.get('next_step')}, then: bmi node deprovision {node.name}"
        )
        return
    if operation.request["boot"]:
        record = session.get(Boot, UUID(operation.request["boot"]))
        forget(session, record, with_disk=not operation.request["keep_disk"])
    move(node, NodeState.AVAILABLE)
    node.project_id = None


@workflow("node.deprovision", settle=settle, cancellable=False)
def deprovision(run: Run) -> None:
    """Carry out a deprovision. Power goes first, so that nobody writes to a disk that is being taken away."""
    parts, node = run.parts, run.operation.node_id
    assert node is not None  # noqa: S101 - the claim of this verb

    def power_off() -> str:
        power, bmc = bmc_of(parts, node)
        power.off(bmc)
        return "off, confirmed by the BMC"

    run.step("power off", power_off)
    if run.request["boot"] is None:
        return
    with parts.db.read() as session:
        record = session.get_one(Boot, UUID(run.request["boot"]))
    network, nic = record.attachment.network_id, record.attachment.nic_id

    def disk() -> str:
        if run.request["keep_disk"]:
            return f"{record.disk.name} is kept"
        parts.storage.remove(Volume(Kind.DISK, record.disk_id))
        return f"{record.disk.name} is gone"

    run.step("network", lambda: detach(parts, record.id, nic))
    run.step("boot service", lambda: remove_boot_service(parts, record.id, network))
    run.step("export", lambda: remove_export(parts, record.id, network))
    run.step("seed", lambda: remove_seed(parts, record.id))
    run.step("disk", disk)
