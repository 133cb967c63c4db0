"""Power: a node is switched on, off, or off and on again, without changing what it boots."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned
from bmi.api.nodes import Milestone, NodeState, PowerRequest
from bmi.api.operations import Ending
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.consoles import service as consoles
from bmi.db import now
from bmi.drivers.power import PowerState
from bmi.errors import WrongState
from bmi.nodes import leases
from bmi.nodes.models import Node
from bmi.nodes.service import bmc_of, power_state
from bmi.parts import Parts
from bmi.provisioning import boots
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask(session: Session, caller: Caller, ref: str, request: PowerRequest) -> Operation:
    """Claim a node whose power is to change.

    Raises:
        WrongState: It is not in use, so that it has nothing to boot.
        InUse: Another operation runs on it.
        NotFound: There is no such node for this caller.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    if node.state not in (NodeState.ACTIVE, NodeState.FAILED) and request.action != "off":
        raise WrongState(
            f"node {node.name} is {node.state}",
            next_step=f"provision it first: bmi node provision {node.name}",
        )
    record = session.scalar(select(Boot).where(Boot.node_id == node.id))
    return ask_operation(
        session,
        caller,
        "node.power",
        f"node {node.name}",
        project=node.project_id,
        node=node.id,
        request={"action": request.action, "renew": str(record.id) if record and record.stale else None},
    )


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Leave the node's state as it was: only its power changed."""


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a change of power."""
    return ask(session, caller, str(operation.node_id), PowerRequest(action=operation.request["action"]))


@workflow("node.power", settle=settle, again=again)
def power(run: Run) -> None:
    """Carry out a change of power."""
    run.next_step_of_cancelled = "look what it did before: bmi node power"
    parts, node, action = run.parts, run.operation.node_id, run.request["action"]
    assert node is not None  # noqa: S101 - the claim of this verb

    def off() -> str:
        leases.refuse_lost(parts.db, parts.leases, node)
        power, bmc = bmc_of(parts, node)
        power.off(bmc)
        return "off, confirmed by the BMC"

    def on() -> str:
        leases.refuse_lost(parts.db, parts.leases, node)
        power, bmc = bmc_of(parts, node)
        if power.state(bmc) is PowerState.OFF:
            with parts.db.write() as session:
                consoles.begin(session, parts, session.get_one(Node, node))
        power.on(bmc)
        _note_power(parts, node)
        return "on, confirmed by the BMC"

    if action in ("off", "cycle"):
        run.step("power off", off)

    def seed() -> str:
        if power_state(parts, node) is PowerState.ON:
            return "it is on, and keeps the seed that it has"
        return boots.export(parts, UUID(run.request["renew"]))

    if action in ("on", "cycle"):
        if run.request.get("renew"):
            run.step("seed", seed)
        run.step("power on", on)


def _note_power(parts: Parts, node: UUID) -> None:
    with parts.db.write() as session:
        record = session.scalar(select(Boot).where(Boot.node_id == node))
        if record:
            record.milestone, record.started_at = None, now()
            boot.reached(
                session, record, Milestone.POWER, "power is on, confirmed by the BMC", kind="power.on"
            )
