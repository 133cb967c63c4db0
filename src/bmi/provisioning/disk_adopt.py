"""A content that lies in the store already becomes a disk, without a copy."""

from typing import Any

from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import flush_new, owner
from bmi.api.disks import DiskAdopt
from bmi.drivers.storage import Kind, Volume
from bmi.ids import new_id
from bmi.images.models import Disk
from bmi.images.quota import require_room
from bmi.parts import Parts
from bmi.provisioning.disks import settle_create
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.legacy import between
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask(session: Session, caller: Caller, request: DiskAdopt) -> Operation:
    """Write down a disk to be made of what lies in the store.

    Raises:
        NotAllowed: The caller is no admin: whoever may adopt may read everything that lies there.
        AlreadyExists: The project has a disk of that name.
    """
    authorize(caller, Action.IMAGE_BUILD, None, thing="the system")
    project = owner(session, caller, Action.DISK_WRITE, request.project)
    require_room(session, project.id, disks=1)  # its size is known when it is adopted
    disk = Disk(
        id=new_id(),
        name=request.name,
        project_id=project.id,
        state="creating",
        size=0,  # known when it is adopted
    )
    session.add(disk)
    flush_new(session, f"disk {disk.name} in project {project.name}")
    return _ask(session, caller, disk, request.model_dump(mode="json") | {"project": str(project.id)})


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a disk: for the one that was half-made, if there is one, else for a new one."""
    asked = operation.asked or {}
    disk = session.get(Disk, operation.disk_id)
    if disk is None:
        return ask(session, caller, DiskAdopt.model_validate(asked))
    authorize(caller, Action.IMAGE_BUILD, None, thing="the system")
    return _ask(session, caller, disk, asked)


def _ask(session: Session, caller: Caller, disk: Disk, asked: dict[str, Any]) -> Operation:
    return ask_operation(
        session,
        caller,
        "disk.adopt",
        f"disk {disk.name}",
        project=disk.project_id,
        disk=disk.id,
        request={"source": asked["source"]},
        result={"disk": disk.name},
        asked=asked,
    )


@workflow("disk.adopt", settle=settle_create, again=again)
def adopt(run: Run) -> None:
    """Make a disk of a content: the storage adopts images, and a clone of one is a disk."""
    parts, disk = run.parts, run.operation.disk_id
    assert disk is not None  # noqa: S101 - the claim of this verb
    image = between(disk)

    def take() -> str:
        size = parts.storage.adopt(image, run.request["source"]).size
        parts.storage.clone(image, disk)
        parts.storage.remove(Volume(Kind.IMAGE, image))
        with parts.db.write() as session:
            row = session.get_one(Disk, disk)
            require_room(session, row.project_id, disk_bytes=size - row.size)
            row.size = size
        return f"{size >> 20} MiB, nothing copied"

    def remove() -> str:
        parts.storage.remove(Volume(Kind.DISK, disk))
        parts.storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("adopt", take, undo=remove)
