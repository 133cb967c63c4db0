"""Disks come, go, and become images."""

from uuid import UUID

from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned, flush_new, owner
from bmi.api.images import DiskCreate, SnapshotCreate
from bmi.drivers.storage import Kind, Volume
from bmi.errors import BadRequest, WrongState
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.images.service import ready_image, refuse_disk_in_use
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.journal import Ending
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
    return ask_operation(
        session,
        caller,
        "disk.create",
        f"disk {disk.name}",
        project=project.id,
        disk=disk.id,
        result={"disk": disk.name},
    )


def ask_delete(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim a disk that no node boots from, to be removed.

    Raises:
        InUse: A node boots from it, or another operation runs on it.
        NotFound: There is no such disk for this caller.
    """
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=project)
    if disk.state != "removing":
        refuse_disk_in_use(session, disk)
    disk.state = "removing"
    return ask_operation(
        session, caller, "disk.delete", f"disk {disk.name}", project=disk.project_id, disk=disk.id
    )


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
    owner(session, caller, Action.IMAGE_WRITE, str(disk.project_id))
    if disk.state != "ready":
        raise WrongState(f"disk {disk.name} is {disk.state}", next_step="wait until it is ready: bmi op list")
    image = Image(
        id=new_id(),
        name=request.name,
        project_id=disk.project_id,
        state="creating",
        origin="snapshot",
        parent_id=disk.image_id,
        size=disk.size,
    )
    session.add(image)
    flush_new(session, f"image {image.name} in project {disk.project.name}")
    return ask_operation(
        session,
        caller,
        "disk.snapshot",
        f"disk {disk.name}",
        project=disk.project_id,
        image=image.id,
        request={"disk": str(disk.id)},
        result={"image": image.name, "image_id": str(image.id)},
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


def settle_snapshot(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how taking a snapshot left the new image."""
    image = session.get_one(Image, operation.image_id)
    if ending is Ending.SUCCEEDED:
        image.state = "ready"
    elif ending is Ending.UNDONE:
        session.delete(image)


@workflow("disk.create", settle=settle_create)
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


@workflow("disk.delete", settle=settle_delete, cancellable=False)
def delete(run: Run) -> None:
    """Remove a disk."""

    def remove() -> str:
        run.parts.storage.remove(Volume(Kind.DISK, _claimed(run.operation.disk_id)))
        return "gone"

    run.step("remove", remove)


@workflow("disk.snapshot", settle=settle_snapshot)
def snapshot(run: Run) -> None:
    """Freeze a disk's content as an image."""
    storage, image = run.parts.storage, _claimed(run.operation.image_id)

    def freeze() -> str:
        storage.snapshot(UUID(run.request["disk"]), image)
        return "frozen, nothing copied"

    def remove() -> str:
        storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("snapshot", freeze, undo=remove)


def _claimed(id: UUID | None) -> UUID:
    assert id is not None  # noqa: S101 - the claim of these verbs
    return id
