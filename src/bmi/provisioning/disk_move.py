"""A disk moves to another node: the same operating system on other hardware.

One operation for both nodes, so that nobody takes the second one meanwhile. The boot record itself moves, with its
host name, keys and user data, on the same network with its address too; and with its id, by which the system on the
disk knows that it is still the same.
"""

import secrets
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned
from bmi.api.disks import Move
from bmi.api.nodes import NodeState, Provision
from bmi.api.operations import Ending
from bmi.boot.models import Boot
from bmi.drivers.power import PowerState
from bmi.errors import BadRequest, WrongState
from bmi.events import record as record_event
from bmi.ids import new_id
from bmi.images.models import Disk
from bmi.images.service import require_ready
from bmi.networks import service as networks
from bmi.networks.models import Attachment, Network
from bmi.nodes.models import Node
from bmi.nodes.service import power_state
from bmi.nodes.states import move, release
from bmi.parts import Parts
from bmi.provisioning import boots, offline, provision
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask(
    session: Session, parts: Parts, caller: Caller, ref: str, project: str | None, request: Move
) -> Operation:
    """Claim a disk, the node that boots from it, and the free node that is to.

    Raises:
        NotFound: There is no such disk, node or network for this caller.
        WrongState: No node boots from the disk, or it is not ready, or the other node is not available.
        InUse: The other node is in use, or another operation runs on one of them.
        BadRequest: The disk is there already.
    """
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=project)
    require_ready(disk)
    record = session.scalar(select(Boot).where(Boot.disk_id == disk.id))
    target = find_owned(session, caller, Node, request.to, Action.NODE_USE, project=None)
    if record is None:
        raise WrongState(
            f"no node boots from disk {disk.name}",
            next_step=f"boot it there: bmi node provision {target.name} --disk {disk.name} --network NETWORK",
        )
    authorize(caller, Action.NODE_USE, disk.project_id, thing=f"node {record.node.name}")
    if record.node_id == target.id:
        raise BadRequest(f"disk {disk.name} is at node {target.name} already", next_step="name another node")
    network = _network(session, caller, disk, record, request)
    operation = _ask(session, parts, caller, record, target, network, request)
    provision.refuse_unavailable(target)
    _begin(session, operation, record, target)
    return operation


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again: for the boot of the second node if it has the disk, else from the beginning.

    What could not be undone is done anew; if that fails too, the first node is to become what it was at first.
    """
    record = session.get(Boot, UUID(operation.request["boot"]))
    if record is not None and record.node_id == operation.node_id:
        return provision.again(session, parts, caller, operation)
    asked, ref = Provision.model_validate(operation.asked), str(operation.disk_id)
    request = Move(
        to=str(operation.node_id), network=asked.network, until=asked.until, deadline=asked.deadline
    )
    if operation.ending is not Ending.STUCK or record is None or record.node_id != operation.second_node_id:
        return ask(session, parts, caller, ref, None, request)
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=None)
    target = find_owned(session, caller, Node, request.to, Action.NODE_USE, project=None)
    network = _network(session, caller, disk, record, request)
    repeated = _ask(session, parts, caller, record, target, network, request)
    if target.state is not NodeState.FAILED or target.project_id != disk.project_id:
        provision.refuse_unavailable(target)
    before: dict[str, Any] = {
        key: operation.request[key] for key in ("had", "was_on") if key in operation.request
    }
    repeated.request = {**repeated.request, **before, "stuck": True}
    _begin(session, repeated, record, target)
    return repeated


def _ask(
    session: Session,
    parts: Parts,
    caller: Caller,
    record: Boot,
    target: Node,
    network: Network,
    request: Move,
) -> Operation:
    disk, attachment = record.disk, _attachment(session, parts, record, network, target)
    operation = ask_operation(
        session,
        caller,
        "disk.move",
        f"disk {disk.name}",
        project=disk.project_id,
        node=target.id,
        second_node=record.node_id,
        disk=disk.id,
        request={
            "boot": str(record.id),
            "clone": False,
            "from": _side(record.node, record.attachment),
            "to": _side(target, attachment),
            "had": {"exported": record.exported, "served": record.served, "attached": record.attached},
            "until": request.until,
            "deadline": request.deadline,
        },
        result={
            "disk": disk.name,
            "from": record.node.name,
            "node": target.name,
            "address": attachment.address,
        },
        asked=_as_provision(record, network, request),
    )
    session.add(attachment)
    return operation


def _begin(session: Session, operation: Operation, record: Boot, target: Node) -> None:
    project = record.disk.project_id
    move(target, NodeState.PROVISIONING)
    target.project_id, target.problem = project, None
    session.flush()
    words = f"disk {record.disk.name} is to move to node {target.name}"
    record_event(session, "disk.move", words, node=record.node_id, operation=operation.id, project=project)


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how moving the disk left both nodes."""
    origin, target = session.get_one(Node, operation.second_node_id), session.get_one(Node, operation.node_id)
    record = session.get_one(Boot, UUID(operation.request["boot"]))
    _drop_other_attachment(session, operation, record)
    moved = record.node_id == target.id
    if ending is Ending.STUCK:
        offline.fail(origin, operation, "give it back: bmi node reset")
        offline.fail(target, operation, "give it back: bmi node reset")
    elif moved:
        release(origin)
        origin.problem = None
        if ending is Ending.SUCCEEDED:
            move(target, NodeState.ACTIVE)
        else:
            offline.fail(target, operation, "give it back: bmi node deprovision")
    else:
        release(target)
        if operation.request.get("stuck"):  # it had failed, and is as it was before that
            move(origin, NodeState.ACTIVE)
            origin.problem = None
    words = f"disk {operation.result['disk']} {'is at' if moved else 'did not move to'} node {target.name}"
    record_event(
        session, "disk.moved" if moved else "disk.stayed", words, node=origin.id, operation=operation.id,
        project=operation.project_id,
    )  # fmt: skip


@workflow("disk.move", settle=settle, again=again)
def move_disk(run: Run) -> None:
    """Move a disk. Everything can be undone until the second node has power; the first is then as it was."""
    parts, id = run.parts, UUID(run.request["boot"])
    origin, target = UUID(run.request["from"]["node"]), UUID(run.request["to"]["node"])
    had = run.request["had"]

    def look() -> str:
        run.remember(was_on=power_state(parts, origin) is PowerState.ON)
        # What cannot be reached here need not be found out when the first node is off.
        boots.power_off(parts, target)
        return f"{run.operation.result['node']} is off, {run.operation.result['from']} is {_on(run)}"

    def restore(flag: str, do: Any) -> Any:
        """Return what makes something anew if the record had it before."""
        return lambda: do(parts, id) if had[flag] else "it was not there before"

    def seed() -> str:
        return boots.write_seed(parts, id)

    with run.all_or_nothing():
        run.step("look", look)
        run.step(
            "power off",
            lambda: boots.power_off(parts, origin),
            undo=lambda: boots.power_on(parts, id) if run.request["was_on"] else "it was off before",
        )
        run.step(
            "end export",
            lambda: boots.remove_export(parts, boots.load(parts, id)),
            undo=restore("exported", boots.export),
        )
        run.step(
            "end boot service",
            lambda: boots.remove_boot_service(parts, boots.load(parts, id)),
            undo=restore("served", boots.serve),
        )
        run.step(
            "isolate",
            lambda: boots.detach(parts, id, boots.load(parts, id).attachment.nic_id),
            undo=restore("attached", boots.attach),
        )
        # Whoever switches the node on again chooses anew what it boots from: there is nothing to undo.
        run.step("boot settings", lambda: boots.reset_boot(parts, origin))
        run.step("hand over", lambda: _hand_over(run, id, "to"), undo=lambda: _hand_back(run, id))
        run.step("seed", seed)
        run.step(
            "export",
            lambda: boots.export(parts, id),
            undo=lambda: boots.remove_export(parts, boots.load(parts, id)),
        )
        run.step(
            "boot service",
            lambda: boots.serve(parts, id),
            undo=lambda: boots.remove_boot_service(parts, boots.load(parts, id)),
        )
        run.step(
            "network",
            lambda: boots.attach(parts, id),
            undo=lambda: boots.detach(parts, id, boots.load(parts, id).attachment.nic_id),
        )
        run.step(
            "power on",
            lambda: boots.power_on(parts, id),
            undo=lambda: boots.undo_power_on(parts, target),
        )
        run.step("watch", lambda: boots.watch(run, id), stands=True)


def _hand_over(run: Run, id: UUID, to: str) -> str:
    """Make a record one of the other node, with a secret that the node before does not know."""
    goal = run.request[to]
    with run.parts.db.write() as session:
        row = session.get_one(Boot, id)
        row.node_id, row.attachment_id = UUID(goal["node"]), UUID(goal["attachment"])
        session.get_one(Attachment, row.attachment_id).nic_id = UUID(goal["nic"])
        row.chap_secret = run.parts.vault.seal(secrets.token_hex(provision.SECRET_BYTES))
        row.milestone = row.started_at = None
        session.flush()
        session.refresh(row)
        return f"{row.disk.name} belongs to node {row.node.name}, at {row.attachment.address}"


def _hand_back(run: Run, id: UUID) -> str:
    said = _hand_over(run, id, "from")
    boots.write_seed(run.parts, id)
    return said


def _on(run: Run) -> str:
    return "on" if run.request["was_on"] else "off"


def _network(session: Session, caller: Caller, disk: Disk, record: Boot, request: Move) -> Network:
    if request.network is None:
        return record.attachment.network
    network = find_owned(
        session, caller, Network, request.network, Action.NETWORK_READ, project=str(disk.project_id)
    )
    if network.state != "ready":
        raise WrongState(f"network {network.name} is {network.state}", next_step="wait until it is ready")
    return network


def _attachment(session: Session, parts: Parts, record: Boot, network: Network, target: Node) -> Attachment:
    """Return the attachment that the record gets: on the same network its own, so that it keeps its address."""
    if network.id == record.attachment.network_id:
        return record.attachment
    return Attachment(
        id=new_id(),
        nic_id=target.nics[0].id,
        network_id=network.id,
        address=str(networks.choose_address(session, parts.settings.networks, network, target.nics[0], None)),
    )


def _side(node: Node, attachment: Attachment) -> dict[str, str]:
    return {"node": str(node.id), "nic": str(node.nics[0].id), "attachment": str(attachment.id)}


def _as_provision(record: Boot, network: Network, request: Move) -> dict[str, Any]:
    """Return what would have to be asked for to boot the disk at the second node without the first."""
    asked = Provision(
        disk=str(record.disk_id),
        network=str(network.id),
        project=str(record.disk.project_id),
        hostname=record.hostname,
        ssh_keys=record.ssh_keys,
        user_data=record.user_data,
        until=request.until,
        deadline=request.deadline,
    )
    return asked.model_dump(mode="json")


def _drop_other_attachment(session: Session, operation: Operation, record: Boot) -> None:
    """Give back the address that is not used any more, or never was."""
    for side in ("from", "to"):
        id = UUID(operation.request[side]["attachment"])
        if id != record.attachment_id and (row := session.get(Attachment, id)):
            session.delete(row)
