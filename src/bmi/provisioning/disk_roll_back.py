"""A disk becomes again what an image is: a snapshot of it, or what it was cloned from."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned
from bmi.api.disks import RollBack
from bmi.api.operations import Ending
from bmi.drivers.storage import Kind, Volume
from bmi.errors import BadRequest, NotFound
from bmi.images.models import Disk, Image
from bmi.images.quota import require_room
from bmi.images.service import ready_image, require_ready
from bmi.parts import Parts
from bmi.provisioning import boots, offline
from bmi.provisioning.disks import new_snapshot
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.image_check import needs_keys
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask(session: Session, caller: Caller, ref: str, project: str | None, request: RollBack) -> Operation:
    """Claim a disk that is to be rolled back, and the node that boots from it.

    Raises:
        NotFound: There is no such disk, node or image for this caller.
        BadRequest: The image has nothing to do with the disk, and that was not said to be meant.
        AlreadyExists: The project has an image of the name under which the present state is to be kept.
        WrongState: The disk or the image is not ready, or the node is half given back.
        InUse: Another operation runs on one of them.
    """
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=project)
    require_ready(disk)
    image = _image(session, caller, disk, request)
    require_room(session, disk.project_id, disk_bytes=max(0, image.size - disk.size))
    kept = new_snapshot(session, caller, disk, request.keep) if request.keep else None
    return _ask(session, caller, disk, image, kept, request)


def _ask(
    session: Session, caller: Caller, disk: Disk, image: Image, kept: Image | None, request: RollBack
) -> Operation:
    record = offline.booting(session, disk)
    return ask_operation(
        session,
        caller,
        "disk.rollback",
        f"disk {disk.name}",
        project=disk.project_id,
        node=record.node_id if record else None,
        disk=disk.id,
        image=kept.id if kept else None,
        request={
            **offline.facts(record),
            "image": str(image.id),
            "until": request.until,
            "deadline": request.deadline,
            "keys": record is not None and needs_keys(image),
        },
        result={"disk": disk.name, "image": image.name}
        | ({"kept": kept.name, "kept_id": str(kept.id)} if kept else {})
        | ({"node": record.node.name} if record else {}),
        asked=request.model_dump(mode="json") | {"image": str(image.id)},
    )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again: from the beginning, or for what comes after the former state was kept.

    The former state is kept once only: later it may be gone. The node is to become what it was at first.
    """
    asked, ref = RollBack.model_validate(operation.asked), str(operation.disk_id)
    if operation.ending is Ending.UNDONE:
        return ask(session, caller, ref, None, asked)
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=None)
    image = ready_image(session, caller, str(asked.image), disk.project)
    kept = session.get(Image, operation.image_id) if operation.image_id else None
    half = kept if kept is not None and kept.state == "creating" else None
    repeated = _ask(session, caller, disk, image, half, asked)
    if repeated.node_id == operation.node_id:
        repeated.request = {**operation.request, **repeated.request}
    return repeated


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how rolling back left the disk, the image of its former state, and the node."""
    image = session.get(Image, operation.image_id) if operation.image_id else None
    if image is not None and ending is Ending.UNDONE:
        session.delete(image)
    elif image is not None and operation.did("keep"):
        image.state = "ready"
    offline.settle_node(session, operation, ending)


@workflow("disk.rollback", settle=settle, again=again)
def roll_back(run: Run) -> None:
    """Roll a disk back. Until its content is replaced everything can be undone; from then on it goes forward."""
    storage, disk, image = run.parts.storage, _claimed(run), UUID(run.request["image"])
    kept = run.operation.image_id

    def find() -> str:
        found = storage.find(Volume(Kind.IMAGE, image))
        if found is None:
            raise NotFound(
                f"the storage has no image {run.operation.result['image']}", next_step="name another image"
            )
        return f"{run.operation.result['image']}, {found.size >> 20} MiB"

    def keep() -> str:
        assert kept is not None  # noqa: S101 - it is asked for
        if run.operation.retry_of is not None:  # what was kept at first may not be the latest
            storage.remove(Volume(Kind.IMAGE, kept))
        storage.snapshot(disk, kept)
        return "frozen, nothing copied"

    def forget() -> str:
        assert kept is not None  # noqa: S101 - it is asked for
        storage.remove(Volume(Kind.IMAGE, kept))
        return "gone"

    def replace() -> str:
        storage.roll_back(disk, image)
        _note(run.parts, disk, image)
        return "nothing copied"

    with run.all_or_nothing():
        run.step("image", find)
        offline.take(run, restart=True)
        if kept is not None:
            run.step("keep", keep, undo=forget)
    run.next_step_of_cancelled = f"roll it back: bmi op retry {run.operation.id}"
    run.step("roll back", replace)
    if run.request.get("keys"):
        run.step("keys", lambda: boots.write_keys(run, UUID(run.request["boot"])))
    offline.give_back(run)


def _image(session: Session, caller: Caller, disk: Disk, request: RollBack) -> Image:
    if request.image is None:
        if disk.image is None:
            raise BadRequest(
                f"the image that disk {disk.name} was cloned from is gone",
                next_step="name the image to roll back to: --image",
            )
        return ready_image(session, caller, str(disk.image_id), disk.project)
    image = ready_image(session, caller, request.image, disk.project)
    if not request.other_image and image.id != disk.image_id and not _snapshot_of(session, disk, image):
        raise BadRequest(
            f"image {image.name} is no snapshot of disk {disk.name}, and not what it was cloned from",
            next_step="name one that is, or say that you mean it: --other-image",
        )
    return image


def _snapshot_of(session: Session, disk: Disk, image: Image) -> bool:
    taken = select(Operation).where(Operation.image_id == image.id)
    return any(
        row.request.get("disk") == str(disk.id) or row.disk_id == disk.id for row in session.scalars(taken)
    )


def _note(parts: Parts, disk: UUID, image: UUID) -> None:
    """Write what a disk is a clone of now, and how large it has become."""
    found = parts.storage.find(Volume(Kind.DISK, disk))
    with parts.db.write() as session:
        row = session.get_one(Disk, disk)
        row.image_id = image if session.get(Image, image) else None
        row.size = found.size if found else row.size


def _claimed(run: Run) -> UUID:
    assert run.operation.disk_id is not None  # noqa: S101 - the claim of this verb
    return run.operation.disk_id
