"""Takes a disk from the node that boots from it while it is changed, and gives it back: roll back and grow.

A target tells its initiator the size that a disk had when the export was made, and goes on with the old content of
one that was replaced. So the export ends before the change, and is made anew after it; the node is off meanwhile.
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.nodes import NodeState
from bmi.api.operations import Ending
from bmi.boot.models import Boot
from bmi.drivers.power import PowerState
from bmi.errors import InUse, WrongState
from bmi.images.models import Disk
from bmi.nodes.models import Node
from bmi.nodes.service import power_state
from bmi.nodes.states import move
from bmi.provisioning import boots
from bmi.provisioning.engine import Run
from bmi.provisioning.models import Operation


def booting(session: Session, disk: Disk) -> Boot | None:
    """Return the record of the node that boots from a disk, if one does.

    Raises:
        WrongState: The node is half given back.
    """
    record = session.scalar(select(Boot).where(Boot.disk_id == disk.id))
    if record is not None and not (record.seeded and record.served and record.attached):
        raise WrongState(
            f"node {record.node.name}, which boots from disk {disk.name}, is half given back",
            next_step=f"give it back, and keep the disk: bmi node reset {record.node.name}",
        )
    return record


def facts(record: Boot | None) -> dict[str, str | None]:
    """Return what a request has to say of the node that boots from a disk."""
    return {"boot": str(record.id) if record else None}


def take(run: Run, *, restart: bool) -> None:
    """Switch the node off and end its export; each is undone by its opposite.

    Args:
        run: The operation.
        restart: Whether a node that is on may be switched off.
    """
    if (id := _record(run)) is None:
        return
    parts = run.parts
    node = boots.load(parts, id).node_id

    def look() -> str:
        on = power_state(parts, node) is PowerState.ON
        if on and not restart:
            raise InUse(
                f"node {run.operation.result['node']} is on, and runs from {run.operation.subject}",
                next_step="switch it off first (bmi node power), or have it restarted: --restart",
            )
        run.remember(was_on=on)
        return "it is on" if run.request["was_on"] else "it is off"

    run.step("look", look)
    run.step("power off", lambda: boots.power_off(parts, node), undo=lambda: _as_it_was(run, id))
    run.step(
        "end export",
        lambda: boots.remove_export(parts, boots.load(parts, id)),
        undo=lambda: boots.export(parts, id),
    )


def give_back(run: Run) -> None:
    """Export the disk anew, and switch the node on if it was; follow its boot as far as was asked for."""
    if (id := _record(run)) is None:
        return
    parts = run.parts

    def end_export() -> str:
        return boots.remove_export(parts, boots.load(parts, id))

    run.step("export", lambda: boots.export(parts, id), undo=end_export)
    if run.request["was_on"]:
        node = boots.load(parts, id).node_id
        run.step("power on", lambda: boots.power_on(parts, id), undo=lambda: boots.power_off(parts, node))
        run.step("watch", lambda: boots.watch(run, id), stands=True)


def settle_node(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how a change of its disk left a node; nothing if none boots from it, or all is as it was."""
    if operation.node_id is None or ending is Ending.UNDONE:
        return
    node = session.get_one(Node, operation.node_id)
    if ending is Ending.SUCCEEDED:
        if node.state is NodeState.FAILED:
            move(node, NodeState.ACTIVE)
        node.problem = None
        return
    fail(node, operation, "give it back: bmi node deprovision")


def fail(node: Node, operation: Operation, otherwise: str) -> None:
    """Mark a node failed, and say what to do: try again, or something else.

    Args:
        node: The node.
        operation: What failed.
        otherwise: What else can be done, as words that end with a command without its last word, the node.
    """
    error = operation.error or {}
    if node.state is not NodeState.FAILED:
        move(node, NodeState.FAILED)
    node.problem = (
        f"{error.get('detail')}; {error.get('next_step')}, then: bmi op retry {operation.id}, "
        f"or {otherwise} {node.name}"
    )


def _record(run: Run) -> UUID | None:
    return UUID(run.request["boot"]) if run.request["boot"] else None


def _as_it_was(run: Run, id: UUID) -> str:
    if run.request.get("was_on"):
        return boots.power_on(run.parts, id)
    return "it was off"
