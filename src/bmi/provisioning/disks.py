"""Disks come, go, and become images."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned, flush_new, owner
from bmi.api.disks import DiskCreate, SnapshotCreate
from bmi.api.operations import Ending
from bmi.drivers import Outcome
from bmi.drivers.storage import Kind, Volume
from bmi.errors import BadRequest, WrongState
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.images.quota import require_room
from bmi.images.service import ready_image, refuse_booted, require_ready, warning
from bmi.parts import Parts
from bmi.provisioning.copying import telling
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

_SECTOR = 512  # bytes; a disk has a whole number of them


def ask_create(session: Session, caller: Caller, request: DiskCreate) -> Operation:
    """Write down a disk to be cloned from an image.

    Raises:
        NotFound: There is no such image for this caller.
        AlreadyExists: The project has a disk of that name.
        BadRequest: It would be smaller than the image.
    """
    project = owner(session, caller, Action.DISK_WRITE, request.project)
    image = ready_image(session, caller, request.image, project)
    size = request.size or image.size
    if size < image.size or size % _SECTOR:
        raise BadRequest(
            f"disk {request.name} cannot have {size} bytes: image {image.name} has {image.size}",
            next_step="ask for at least the image's size, in whole sectors of 512 bytes",
        )
    require_room(session, project.id, disks=1, disk_bytes=size)
    disk = Disk(
        id=new_id(),
        name=request.name,
        project_id=project.id,
        image_id=image.id,
        state="creating",
        size=size,
    )
    session.add(disk)
    flush_new(session, f"disk {disk.name} in project {project.name}")
    return _ask_create(session, caller, disk, request.model_dump(mode="json") | {"project": str(project.id)})


def _ask_create(session: Session, caller: Caller, disk: Disk, asked: dict[str, Any]) -> Operation:
    return ask_operation(
        session,
        caller,
        "disk.create",
        f"disk {disk.name}",
        project=disk.project_id,
        disk=disk.id,
        result={"disk": disk.name, **warning(disk.image)},
        asked=asked,
    )


def create_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a disk: for the one that was half-made, if there is one, else for a new one."""
    asked = operation.asked or {}
    disk = session.get(Disk, operation.disk_id)
    if disk is None:
        return ask_create(session, caller, DiskCreate.model_validate(asked))
    authorize(caller, Action.DISK_WRITE, disk.project_id, thing=f"disk {disk.name}")
    return _ask_create(session, caller, disk, asked)


def delete_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a disk to be removed."""
    return ask_delete(session, caller, str(operation.disk_id), None)


def snapshot_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a snapshot: of the disk as it is now."""
    image = session.get(Image, operation.image_id)
    if image is not None:
        authorize(caller, Action.IMAGE_WRITE, image.project_id, thing=f"image {image.name}")
        disk = find_owned(session, caller, Disk, operation.request["disk"], Action.DISK_READ, project=None)
        return _ask_snapshot(session, caller, disk, image)
    request = SnapshotCreate.model_validate(operation.asked)
    return ask_snapshot(session, caller, operation.request["disk"], None, request)


def flatten_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a disk to be made independent."""
    return ask_flatten(session, caller, str(operation.disk_id), None)


def ask_delete(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim a disk that no node boots from, to be removed.

    Raises:
        InUse: A node boots from it, or another operation runs on it.
        NotFound: There is no such disk for this caller.
    """
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=project)
    refuse_booted(session, disk)
    # Also one that is half-made and that nothing is making any more: nobody else may have claimed it.
    operation = ask_operation(
        session, caller, "disk.delete", f"disk {disk.name}", project=disk.project_id, disk=disk.id
    )
    disk.state = "removing"
    return operation


def ask_snapshot(
    session: Session, caller: Caller, ref: str, project: str | None, request: SnapshotCreate
) -> Operation:
    """Write down an image to be made from a disk, as the disk is now; a node may be running on it.

    Raises:
        NotFound: There is no such disk for this caller.
        AlreadyExists: The project has an image of that name.
        WrongState: The disk is not ready.
    """
    disk = find_owned(session, caller, Disk, ref, Action.DISK_READ, project=project)
    require_ready(disk)
    image = new_snapshot(session, caller, disk, request.name)
    return _ask_snapshot(session, caller, disk, image)


def new_snapshot(session: Session, caller: Caller, disk: Disk, name: str) -> Image:
    """Write down an image that a disk is to be frozen as.

    Raises:
        AlreadyExists: The project has an image of that name.
        QuotaExceeded: The project may not own as much.
    """
    owner(session, caller, Action.IMAGE_WRITE, str(disk.project_id))
    require_room(session, disk.project_id, images=1, image_bytes=disk.size)
    image = Image(
        id=new_id(),
        name=name,
        project_id=disk.project_id,
        state="creating",
        origin="snapshot",
        parent_id=disk.image_id,
        size=disk.size,
    )
    session.add(image)
    flush_new(session, f"image {image.name} in project {disk.project.name}")
    return image


def _ask_snapshot(session: Session, caller: Caller, disk: Disk, image: Image) -> Operation:
    return ask_operation(
        session,
        caller,
        "disk.snapshot",
        f"disk {disk.name}",
        project=disk.project_id,
        image=image.id,
        request={"disk": str(disk.id)},
        result={"image": image.name, "image_id": str(image.id)},
        asked={"name": image.name},
    )


def ask_flatten(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim a disk to be made independent of its image; a node may be running on it.

    Raises:
        NotFound: There is no such disk for this caller.
        WrongState: It is not ready.
    """
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=project)
    require_ready(disk)
    return ask_operation(
        session, caller, "disk.flatten", f"disk {disk.name}", project=disk.project_id, disk=disk.id
    )


def settle_create(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how making a disk left it."""
    disk = session.get_one(Disk, operation.disk_id)
    if ending is Ending.SUCCEEDED:
        disk.state = "ready"
    elif ending is Ending.UNDONE:
        session.delete(disk)


def settle_delete(session: Session, operation: Operation, ending: Ending) -> None:
    """Forget a disk that is gone; one that could not go stays `removing`, to be removed again."""
    if ending is Ending.SUCCEEDED:
        session.delete(session.get_one(Disk, operation.disk_id))


def settle_nothing(session: Session, operation: Operation, ending: Ending) -> None:
    """Leave everything as it is: what was copied is where it was."""


def settle_snapshot(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how taking a snapshot left the new image."""
    image = session.get_one(Image, operation.image_id)
    if ending is Ending.SUCCEEDED:
        image.state = "ready"
    elif ending is Ending.UNDONE:
        session.delete(image)


@workflow("disk.create", settle=settle_create, again=create_again)
def create(run: Run) -> None:
    """Clone an image."""
    storage, id = run.parts.storage, _claimed(run.operation.disk_id)
    with run.parts.db.read() as session:
        disk = session.get_one(Disk, id)

    def clone() -> str:
        image = disk.image
        if image is None:
            raise WrongState(f"the image of disk {disk.name} is gone", next_step="name another image")
        storage.clone(image.id, id, disk.size)
        return f"cloned from {image.name}"

    def unclone() -> str:
        storage.remove(Volume(Kind.DISK, id))
        return "gone"

    with run.all_or_nothing():
        run.step("clone", clone, undo=unclone)


@workflow("disk.delete", settle=settle_delete, again=delete_again)
def delete(run: Run) -> None:
    """Remove a disk."""
    run.next_step_of_cancelled = "remove it again: bmi disk delete"

    def remove() -> str:
        run.parts.storage.remove(Volume(Kind.DISK, _claimed(run.operation.disk_id)))
        return "gone"

    run.step("remove", remove)


@workflow("disk.snapshot", settle=settle_snapshot, again=snapshot_again)
def snapshot(run: Run) -> None:
    """Freeze a disk's content as an image."""
    storage, image = run.parts.storage, _claimed(run.operation.image_id)
    disk, most = UUID(run.request["disk"]), run.parts.settings.images.max_depth

    def freeze() -> str:
        depth = storage.depth(Volume(Kind.DISK, disk)) + 1
        if depth > most:
            raise WrongState(
                f"a snapshot of {run.operation.subject} would depend on {depth} others, one behind the other; "
                f"{most} are allowed",
                next_step=f"make the disk independent first: bmi disk flatten {disk}",
            )
        storage.snapshot(disk, image)
        return "frozen, nothing copied"

    def remove() -> str:
        storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("snapshot", freeze, undo=remove)


@workflow("disk.flatten", settle=settle_nothing, again=flatten_again)
def flatten(run: Run) -> None:
    """Make a disk independent of its image."""

    def copy() -> str:
        volume = Volume(Kind.DISK, _claimed(run.operation.disk_id))
        outcome = run.parts.storage.flatten(volume, telling(run, "flatten"))
        return "it was already" if outcome is Outcome.ALREADY else "independent"

    with run.all_or_nothing():
        run.step("flatten", copy)


def _claimed(id: UUID | None) -> UUID:
    assert id is not None  # noqa: S101 - the claim of these verbs
    return id
