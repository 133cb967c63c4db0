"""A golden image is edited: a node boots a scratch clone of it, which becomes a new image or goes.

An image itself never changes. The scratch clone is a disk like others, with an operation `image.edit` in its past.
"""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned, flush_new
from bmi.api.image_edit import ImageCommit, ImageDiscard, ImageEdit
from bmi.api.nodes import Deprovision, Provision
from bmi.api.operations import Ending
from bmi.boot.models import Boot
from bmi.drivers.power import PowerState
from bmi.drivers.storage import Kind, Volume
from bmi.errors import WrongState
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.images.quota import require_room
from bmi.nodes.models import Node
from bmi.nodes.service import power_state
from bmi.nodes.states import release
from bmi.parts import Parts
from bmi.provisioning import boots, deprovision, offline, provision
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

_EDIT = "image.edit"

workflow(_EDIT, settle=provision.settle, again=provision.again)(provision.provision)


def ask(
    session: Session, parts: Parts, caller: Caller, ref: str, project: str | None, request: ImageEdit
) -> Operation:
    """Claim a free node that is to boot a scratch clone of an image.

    Raises:
        NotAllowed: The caller may not write images where this one is.
        BmiError: What a provision refuses.
    """
    image = find_owned(session, caller, Image, ref, Action.IMAGE_READ, project=project)
    authorize(caller, Action.IMAGE_WRITE, image.project_id, thing=f"image {image.name}")
    asked = Provision(image=str(image.id), **request.model_dump(exclude={"node"}))
    return provision.ask(session, parts, caller, request.node, asked, verb=_EDIT)


def ask_discard(session: Session, caller: Caller, request: ImageDiscard) -> Operation:
    """Claim a node that is to be given back with its scratch clone.

    Raises:
        WrongState: It edits no image.
        BmiError: What a deprovision refuses.
    """
    node, _ = _editing(session, caller, request.node)
    return deprovision.ask(session, caller, str(node.id), Deprovision())


def ask_commit(session: Session, caller: Caller, request: ImageCommit) -> Operation:
    """Claim a node whose scratch clone is to become an image beside the one that it was cloned from.

    Raises:
        WrongState: It edits no image.
        NotAllowed: The caller may not write images where the first one is.
        AlreadyExists: There is an image of that name.
        InUse: Another operation runs on the node.
        QuotaExceeded: The project may not own as much.
    """
    node, record = _editing(session, caller, request.node)
    disk, edited = record.disk, record.disk.image
    owner = edited.project_id if edited else disk.project_id
    authorize(caller, Action.IMAGE_WRITE, owner, thing=f"image {request.name}")
    require_room(session, owner, images=1, image_bytes=disk.size)
    image = Image(
        id=new_id(),
        name=request.name,
        project_id=owner,
        state="creating",
        origin="snapshot",
        parent_id=disk.image_id,
        size=disk.size,
        # Not the edited one's: who may write it need not be one who may publish.
        visibility="private" if owner else "public",
    )
    session.add(image)
    flush_new(session, f"image {image.name}")
    return _ask_commit(session, caller, node, record, image)


def _ask_commit(session: Session, caller: Caller, node: Node, record: Boot, image: Image) -> Operation:
    return ask_operation(
        session,
        caller,
        "image.commit",
        f"image {image.name}",
        project=node.project_id,
        node=node.id,
        disk=record.disk_id,
        image=image.id,
        request={"boot": str(record.id), "disk": str(record.disk_id)},
        result={"image": image.name, "image_id": str(image.id), "node": node.name},
        asked={"node": str(node.id), "name": image.name},
    )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a new image: for the one that was half-made, if there is one; the rest goes on where it was."""
    image = session.get(Image, operation.image_id)
    request = ImageCommit.model_validate(operation.asked)
    if image is None:
        return ask_commit(session, caller, request)
    authorize(caller, Action.IMAGE_WRITE, image.project_id, thing=f"image {image.name}")
    node, record = _editing(session, caller, request.node)
    repeated = _ask_commit(session, caller, node, record, image)
    committed = operation.request.get("committed", False) or operation.did("snapshot")
    repeated.request = {**operation.request, **repeated.request, "committed": committed}
    return repeated


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how committing left the new image, the scratch clone and the node."""
    image, node = session.get_one(Image, operation.image_id), session.get_one(Node, operation.node_id)
    match ending:
        case Ending.SUCCEEDED:
            image.state = "ready"
            provision.forget(session, session.get(Boot, UUID(operation.request["boot"])), with_disk=True)
            release(node)
            node.problem = None
        case Ending.UNDONE:
            session.delete(image)
        case Ending.STANDING | Ending.STUCK:
            offline.fail(node, operation, "give it back: bmi node deprovision")


@workflow("image.commit", settle=settle, again=again)
def commit(run: Run) -> None:
    """Make an image of a node's scratch clone, then give the node back; from there on it goes forward."""
    parts, storage, image = run.parts, run.parts.storage, run.operation.image_id
    with parts.db.read() as session:
        record = session.get_one(Boot, UUID(run.request["boot"]))
    node, disk = record.node_id, record.disk_id
    assert image is not None  # noqa: S101 - the claim of this verb
    frozen = Volume(Kind.IMAGE, image)

    def look() -> str:
        depth, most = storage.depth(Volume(Kind.DISK, disk)) + 1, parts.settings.images.max_depth
        if depth > most:
            raise WrongState(
                f"{run.operation.subject} would depend on {depth} others, one behind the other; {most} are allowed",
                next_step=f"make the disk independent first: bmi disk flatten {record.disk.name}",
            )
        run.remember(was_on=power_state(parts, node) is PowerState.ON)
        return "it is on" if run.request["was_on"] else "it is off"

    def power_on() -> str:
        return boots.power_on(parts, record.id) if run.request["was_on"] else "it was off before"

    def freeze() -> str:
        storage.snapshot(disk, frozen.id)
        return "frozen, nothing copied"

    def unfreeze() -> str:
        storage.remove(frozen)
        return "gone"

    def remove() -> str:
        with parts.db.write() as session:
            session.get_one(Disk, disk).state = "removing"
        storage.remove(Volume(Kind.DISK, disk))
        return "gone"

    if not run.request.get("committed"):
        with run.all_or_nothing():
            run.step("look", look)
            run.step("power off", lambda: boots.power_off(parts, node), undo=power_on)
            run.step("snapshot", freeze, undo=unfreeze)
    run.next_step_of_cancelled = f"give the node back: bmi op retry {run.operation.id}"
    run.step("network", lambda: deprovision.isolate(parts, node))
    run.step("boot service", lambda: boots.remove_boot_service(parts, record))
    run.step("export", lambda: boots.remove_export(parts, record))
    run.step("seed", lambda: boots.remove_seed(parts, record.id))
    run.step("disk", remove)
    run.step("boot settings", lambda: boots.reset_boot(parts, node))


def _editing(session: Session, caller: Caller, ref: str) -> tuple[Node, Boot]:
    """Return a node that boots a scratch clone, and its record.

    Raises:
        NotFound: There is no such node for this caller.
        WrongState: It does not.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    record = session.scalar(select(Boot).where(Boot.node_id == node.id))
    edits = select(Operation.id).where(Operation.verb == _EDIT)
    if record is None or session.scalar(edits.where(Operation.disk_id == record.disk_id).limit(1)) is None:
        raise WrongState(
            f"node {node.name} edits no image", next_step="begin with: bmi image edit IMAGE --node NODE"
        )
    return node, record
