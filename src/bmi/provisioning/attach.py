"""A node that runs joins a network beside the one that it booted on, and leaves it again.

The switch comes first: what the port carries is what isolates tenants. The seed follows, so that the system knows
of it from the next time that the node's power is cycled; on a system that runs nothing is changed.
"""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned
from bmi.api.nodes import Attach, Detach, NodeState
from bmi.api.operations import Ending
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.db import Lifecycle
from bmi.errors import InUse, NotFound, WrongState
from bmi.networks import attachments
from bmi.networks.models import Attachment
from bmi.networks.service import apply_port, vlans_of
from bmi.nodes import leases
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

ATTACH = "node.attach"
DETACH = "node.detach"


def ask(session: Session, parts: Parts, caller: Caller, ref: str, request: Attach) -> Operation:
    """Claim a node that is to join a network.

    Raises:
        WrongState: It does not run.
        NotFound: There is no such node or network for this caller, or the network is not for the node's project.
        AlreadyExists: It is on the network already.
        InUse: The card has a network without a tag already, or another operation runs on the node.
        BadRequest: It has no such card, or the seed would not be one.
    """
    node, record = _running(session, caller, ref)
    row = attachments.plan(
        session,
        parts.settings.networks,
        caller,
        node,
        record.disk.project,
        request,
        boots_over=record.attachment.nic,
        there=attachments.on_node(session, node.id),
    )
    return _ask(session, caller, ATTACH, node, record, row, request.model_dump(mode="json"))


def ask_detach(session: Session, caller: Caller, ref: str, request: Detach) -> Operation:
    """Claim a node that is to leave a network.

    Raises:
        NotFound: There is no such node for this caller, or it is not on such a network.
        InUse: It boots over it, or another operation runs on the node.
        WrongState: It boots nothing.
    """
    node, record = _booting(session, caller, ref)
    row = _named(session, node, request.network)
    if row.id == record.attachment_id:
        raise InUse(
            f"node {node.name} boots over network {row.network.name}",
            next_step=f"give it back, keep its disk (bmi node deprovision {node.name} --keep-disk), and boot that "
            "on another network",
        )
    operation = _ask(session, caller, DETACH, node, record, row, {"network": str(row.network_id)})
    row.state = "removing"
    return operation


def _ask(
    session: Session,
    caller: Caller,
    verb: str,
    node: Node,
    record: Boot,
    row: Attachment,
    asked: dict[str, Any],
) -> Operation:
    return ask_operation(
        session,
        caller,
        verb,
        f"node {node.name}",
        project=node.project_id,
        node=node.id,
        request={"boot": str(record.id), "attachment": str(row.id)},
        result={
            "node": node.name,
            "network": row.network.name,
            "nic": attachments.number_of(node, row.nic_id),
            "mac": row.nic.mac,
            "tagged": row.tagged,
            "vlan": row.network.vlan,
            "address": f"{row.ip}/{row.network.range.prefixlen}",
        },
        asked=asked,
    )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again: for the attachment that was left behind, if there is one."""
    node = str(operation.node_id)
    if operation.verb == DETACH:
        return ask_detach(session, caller, node, Detach.model_validate(operation.asked))
    row = session.get(Attachment, UUID(operation.request["attachment"]))
    if row is None:
        return ask(session, parts, caller, node, Attach.model_validate(operation.asked))
    found, record = _running(session, caller, node)
    row.state = "creating"
    return _ask(session, caller, ATTACH, found, record, row, operation.asked or {})


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Forget an attachment that did not come about, or that has ended; one that could not go is `removing`."""
    gone = Ending.SUCCEEDED if operation.verb == DETACH else Ending.UNDONE
    if ending is gone and (row := session.get(Attachment, UUID(operation.request["attachment"]))):
        session.delete(row)


@workflow(ATTACH, settle=settle, again=again)
def attach(run: Run) -> None:
    """Let the port carry a network, and say so in the seed."""
    parts, id, record = run.parts, UUID(run.request["attachment"]), UUID(run.request["boot"])

    def join() -> str:
        return _carry(parts, id, "ready")

    def leave() -> str:
        return _carry(parts, id, "removing")

    def unwrite() -> str:
        _carry(parts, id, "removing")
        return _write_seed(parts, record)

    with run.all_or_nothing():
        run.step("network", join, undo=leave)
        run.step("seed", lambda: _write_seed(parts, record), undo=unwrite)


@workflow(DETACH, settle=settle, again=again)
def detach(run: Run) -> None:
    """Let the port carry a network no longer, and take it out of the seed. It only goes forward."""
    parts, id, record = run.parts, UUID(run.request["attachment"]), UUID(run.request["boot"])
    run.next_step_of_cancelled = f"have it detached: bmi op retry {run.operation.id}"
    run.step("network", lambda: _carry(parts, id, "removing"))
    run.step("seed", lambda: _write_seed(parts, record))


def _carry(parts: Parts, id: UUID, state: Lifecycle) -> str:
    """Write whether a port should carry an attachment, and have it do so."""
    if state == "ready":
        with parts.db.read() as session:
            node = session.get_one(Attachment, id).nic.node
        leases.keep(parts.db, parts.leases, node.id, node.project.name if node.project else None)
    with parts.db.write() as session:
        row = session.get_one(Attachment, id)
        row.state = state
        card = row.nic
    apply_port(parts, card.id)
    with parts.db.read() as session:
        return f"port {card.port} of {card.switch} carries VLAN {vlans_of(session, card.id)}"


def _write_seed(parts: Parts, record: UUID) -> str:
    """Write a seed as it should be now; its target still has the old one."""
    with parts.db.write() as session:
        session.get_one(Boot, record).stale = True
    boot.write_seed(parts, record)
    return "the system learns of it when the node's power is cycled: bmi node power NODE cycle"


def _booting(session: Session, caller: Caller, ref: str) -> tuple[Node, Boot]:
    """Return a node that boots something, and its record.

    Raises:
        NotFound: There is no such node for this caller.
        WrongState: It boots nothing.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    record = session.scalar(select(Boot).where(Boot.node_id == node.id))
    if record is None or node.state not in (NodeState.ACTIVE, NodeState.FAILED):
        raise WrongState(
            f"node {node.name} is {node.state}",
            next_step=f"boot it first, with all its networks: bmi node provision {node.name}",
        )
    return node, record


def _running(session: Session, caller: Caller, ref: str) -> tuple[Node, Boot]:
    """Return a node that is as it should be, and its record.

    Raises:
        NotFound: There is no such node for this caller.
        WrongState: It boots nothing, or an operation has failed on it.
    """
    node, record = _booting(session, caller, ref)
    if node.state is not NodeState.ACTIVE:
        raise WrongState(f"node {node.name} is {node.state}: {node.problem}", next_step="mend that first")
    return node, record


def _named(session: Session, node: Node, ref: str) -> Attachment:
    """Return a node's attachment to a network that is called by its name, PROJECT:NAME or its id.

    Raises:
        NotFound: It has none.
    """
    rows = attachments.on_node(session, node.id)
    full = [
        row for row in rows if ref in (str(row.network_id), f"{row.network.project.name}:{row.network.name}")
    ]
    # A bare name is that of the node's own project first, as everywhere.
    bare = [row for row in rows if ref == row.network.name]
    own = [row for row in bare if row.network.project_id == node.project_id]
    found = full or own or bare
    if len(found) != 1:
        there = ", ".join(f"{row.network.project.name}:{row.network.name}" for row in rows)
        raise NotFound(
            f"node {node.name} is not on a network {ref}"
            if not found
            else f"{ref} stands for several networks",
            next_step=f"it is on: {there}",
        )
    return found[0]
