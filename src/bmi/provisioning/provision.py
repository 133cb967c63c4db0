"""Provision: a node boots from a clone of an image, inside its project's network."""

import contextlib
import secrets
from uuid import UUID

from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned
from bmi.api.nodes import NodeState, Provision
from bmi.api.operations import Ending
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.drivers.storage import Kind, Volume
from bmi.errors import BadRequest, InUse, WrongState
from bmi.gateways import service as gateways
from bmi.ids import new_id, short
from bmi.images.models import Disk
from bmi.images.quota import require_room
from bmi.images.service import ready_image, refuse_disk_in_use, warning
from bmi.networks import service as networks
from bmi.networks.models import Attachment, Network
from bmi.nodes.models import Node
from bmi.nodes.states import move, release
from bmi.parts import Parts
from bmi.provisioning import boots
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.image_check import needs_keys
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

CLEAN = "node.clean"
"""The verb of provisions whose system wipes the node's local disks."""

SECRET_BYTES = 8  # 16 characters of CHAP secret: RFC 7143 wants 96 bits, firmware takes 16 characters at most


def ask(
    session: Session,
    parts: Parts,
    caller: Caller,
    ref: str,
    request: Provision,
    *,
    verb: str = "node.provision",
) -> Operation:
    """Claim a free node, and write down what it is to boot.

    Args:
        session: The transaction.
        parts: The parts.
        caller: Who asks.
        ref: Name or id of the node.
        request: What it is to boot, and how.
        verb: What it is for; carried out like a provision whatever it is.

    Raises:
        WrongState: The node is not available.
        InUse: Somebody else has just claimed it, or the disk boots another node.
        NotFound: There is no such node, network, image or disk for this caller.
        BadRequest: Neither an image nor a disk was named, or both.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    operation, rows = write_down(session, parts, caller, node, request, verb=verb)
    refuse_unavailable(node)
    session.add_all(rows)
    move(node, NodeState.PROVISIONING)
    node.project_id, node.problem = operation.project_id, None
    session.flush()
    return operation


def write_down(
    session: Session, parts: Parts, caller: Caller, node: Node, request: Provision, *, verb: str
) -> tuple[Operation, tuple[Attachment, Boot]]:
    """Ask for a boot of a node, whatever state that is in; returns the operation, and rows that are to be added.

    Raises:
        BmiError: What `ask` refuses, but of the node's state.
    """
    network = find_owned(
        session, caller, Network, request.network, Action.NETWORK_READ, project=request.project
    )
    project = network.project
    authorize(caller, Action.NODE_USE, project.id, thing=f"project {project.name}")
    if network.state != "ready":
        raise WrongState(f"network {network.name} is {network.state}", next_step="wait until it is ready")
    disk = _disk(session, caller, project, node, request)
    attachment = Attachment(
        id=new_id(),
        nic_id=node.nics[0].id,
        network_id=network.id,
        address=str(
            networks.choose_address(session, parts.settings.networks, network, node.nics[0], request.address)
        ),
    )
    gateway = gateways.choose(parts.db, session)
    record = Boot(
        id=new_id(),
        node_id=node.id,
        disk_id=disk.id,
        attachment_id=attachment.id,
        gateway_id=gateway.id,
        hostname=request.hostname or node.name,
        ssh_keys=request.ssh_keys,
        user_data=request.user_data,
        chap_secret=parts.vault.seal(secrets.token_hex(SECRET_BYTES)),
        attachment=attachment,
        disk=disk,
        gateway=gateway,
        cleaning=verb == CLEAN,
    )
    boot.seed_content(
        parts, _with_nic(record, node, network)
    )  # refuses keys and names that no seed can carry
    operation = ask_operation(
        session,
        caller,
        verb,
        f"node {node.name}",
        project=project.id,
        node=node.id,
        disk=disk.id,
        request={
            "boot": str(record.id),
            "clone": request.disk is None,
            "until": request.until,
            "deadline": request.deadline,
            "keys": needs_keys(disk.image),
        },
        result={
            "node": node.name,
            "disk": disk.name,
            "address": attachment.address,
            **(warning(disk.image) if request.image else {}),
        },
        asked=request.model_dump(mode="json") | {"project": str(project.id)},
    )
    return operation, (attachment, record)


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again: over what the first time left standing, if there is something, else from the beginning.

    Raises:
        WrongState: The node is in use: it came up late.
    """
    node = find_owned(session, caller, Node, str(operation.node_id), Action.NODE_USE, project=None)
    record = session.get(Boot, UUID(operation.request["boot"]))
    if record is None:
        asked = Provision.model_validate(operation.asked)
        return ask(session, parts, caller, str(node.id), asked, verb=operation.verb)
    verb = "node.provision" if operation.verb == "disk.move" else operation.verb
    repeated = ask_onward(session, caller, operation, record, verb=verb)
    if node.state is not NodeState.FAILED:
        raise WrongState(f"node {node.name} is {node.state}", next_step="nothing to try again")
    move(node, NodeState.PROVISIONING)
    node.problem = None
    return repeated


def ask_onward(
    session: Session, caller: Caller, operation: Operation, record: Boot, *, verb: str
) -> Operation:
    """Ask for a boot over what an earlier operation left standing."""
    return ask_operation(
        session,
        caller,
        verb,
        f"node {record.node.name}",
        project=record.disk.project_id,
        node=record.node_id,
        disk=record.disk_id,
        request=operation.request | {"onward": True},
        result=operation.result,
        asked=operation.asked,
    )


def _disk(session: Session, caller: Caller, project: Project, node: Node, request: Provision) -> Disk:
    if (request.image is None) == (request.disk is None):
        raise BadRequest(
            "a node boots either from a new clone of an image or from a disk", next_step="name one of the two"
        )
    if request.disk is not None:
        disk = find_owned(session, caller, Disk, request.disk, Action.DISK_WRITE, project=str(project.id))
        refuse_disk_in_use(session, disk)
        return disk
    image = ready_image(session, caller, str(request.image), project)
    require_room(session, project.id, disks=1, disk_bytes=image.size)
    disk = Disk(
        id=new_id(),
        name=f"{node.name}-{short(new_id())[:6]}",
        project_id=project.id,
        image_id=image.id,
        state="creating",
        size=image.size,
        project=project,
    )
    session.add(disk)
    session.flush()
    return disk


def _with_nic(record: Boot, node: Node, network: Network) -> Boot:
    record.attachment.nic, record.attachment.network, record.node = node.nics[0], network, node
    return record


def refuse_unavailable(node: Node) -> None:
    """Refuse a node that is not free.

    Raises:
        InUse: It boots something.
        WrongState: It is in none of these states.
    """
    if node.state is NodeState.AVAILABLE:
        return
    if node.state in (NodeState.ACTIVE, NodeState.FAILED):
        owner = f" for project {node.project.name}" if node.project else ""
        raise InUse(
            f"node {node.name} is in use: it is {node.state}{owner}",
            next_step=f"take another node, or give it back first: bmi node deprovision {node.name}",
        )
    raise WrongState(f"node {node.name} is {node.state}", next_step="wait until it is available")


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how a provision left the node."""
    node = session.get_one(Node, operation.node_id)
    record = session.get(Boot, UUID(operation.request["boot"]))
    match ending:
        case Ending.SUCCEEDED:
            move(node, NodeState.ACTIVE)
        case Ending.UNDONE:
            forget(session, record, with_disk=operation.request["clone"])
            release(node)
        case Ending.STANDING | Ending.STUCK:
            error = operation.error or {}
            move(node, NodeState.FAILED)
            node.problem = (
                f"{error.get('detail')}; {error.get('next_step')}, then: bmi op retry {operation.id}, "
                f"or give it back: bmi node deprovision {node.name}"
            )


def forget(session: Session, record: Boot | None, *, with_disk: bool) -> None:
    """Remove a boot record, whose traces outside the database are gone, and its disk if that is gone too."""
    if record is None:
        return
    attachment, disk = record.attachment, record.disk
    session.delete(record)
    session.flush()
    session.delete(attachment)
    if with_disk:
        session.delete(disk)


@workflow("node.provision", settle=settle, again=again)
def provision(run: Run) -> None:
    """Carry out a provision; the steps are the list in docs/architecture.md."""
    parts = run.parts
    with parts.db.read() as session:
        record = session.get_one(Boot, UUID(run.request["boot"]))
    node, nic = record.node_id, record.attachment.nic_id

    def clone() -> str:
        if record.disk.state == "ready":
            return f"{record.disk.name}, as it is"
        image = record.disk.image
        if image is None:
            raise WrongState(f"the image of disk {record.disk.name} is gone", next_step="name another image")
        outcome = parts.storage.clone(image.id, record.disk_id, record.disk.size)
        with parts.db.write() as session:
            session.get_one(Disk, record.disk_id).state = "ready"
        return f"{record.disk.name} cloned from {image.name} ({outcome})"

    def unclone() -> str:
        if not run.request["clone"]:
            return "kept"
        with parts.db.write() as session:
            session.get_one(Disk, record.disk_id).state = "removing"
        parts.storage.remove(Volume(Kind.DISK, record.disk_id))
        return "gone"

    # What an earlier try left standing may have been used: nothing of it is undone.
    onward = run.request.get("onward", False)
    if onward:
        run.next_step_of_cancelled = "nothing is undone"
    with contextlib.nullcontext() if onward else run.all_or_nothing():
        run.step("power off", lambda: boots.power_off(parts, node))
        run.step("disk", clone, undo=unclone)
        if run.request.get("keys"):
            run.step("keys", lambda: boots.write_keys(run, record.id))
        run.step(
            "seed",
            lambda: boots.write_seed(parts, record.id),
            undo=lambda: boots.remove_seed(parts, record.id),
        )
        run.step(
            "export", lambda: boots.export(parts, record.id), undo=lambda: boots.remove_export(parts, record)
        )
        run.step(
            "boot service",
            lambda: boots.serve(parts, record.id),
            undo=lambda: boots.remove_boot_service(parts, record),
        )
        run.step(
            "network",
            lambda: boots.attach(parts, record.id),
            undo=lambda: boots.detach(parts, record.id, nic),
        )
        run.step(
            "power on",
            lambda: boots.power_on(parts, record.id),
            undo=lambda: boots.undo_power_on(parts, node),
        )
        run.step("watch", lambda: boots.watch(run, record.id), stands=True)
