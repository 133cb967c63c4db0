"""A disk becomes larger."""

from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned
from bmi.api.disks import Grow
from bmi.api.operations import Ending
from bmi.drivers.storage import Kind, Volume
from bmi.errors import BadRequest
from bmi.images.models import Disk
from bmi.images.quota import require_room
from bmi.images.service import require_ready
from bmi.parts import Parts
from bmi.provisioning import offline
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

_SECTOR = 512  # bytes; a disk has a whole number of them


def ask(session: Session, caller: Caller, ref: str, project: str | None, request: Grow) -> Operation:
    """Claim a disk that is to become larger, and the node that boots from it.

    Raises:
        NotFound: There is no such disk for this caller.
        BadRequest: It would be smaller, or not of whole sectors.
        InUse: A node boots from it that may not be switched off, or another operation runs on one of them.
        WrongState: The disk is not ready, or the node is half given back.
    """
    disk = find_owned(session, caller, Disk, ref, Action.DISK_WRITE, project=project)
    require_ready(disk)
    if request.size < disk.size or request.size % _SECTOR:
        raise BadRequest(
            f"disk {disk.name} cannot have {request.size} bytes: it has {disk.size}",
            next_step="ask for more, in whole sectors of 512 bytes; a disk never becomes smaller",
        )
    require_room(session, disk.project_id, disk_bytes=request.size - disk.size)
    record = offline.booting(session, disk)
    return ask_operation(
        session,
        caller,
        "disk.grow",
        f"disk {disk.name}",
        project=disk.project_id,
        node=record.node_id if record else None,
        disk=disk.id,
        request={
            **offline.facts(record),
            "size": request.size,
            "restart": request.restart,
            "until": request.until,
            "deadline": request.deadline,
        },
        result={"disk": disk.name} | ({"node": record.node.name} if record else {}),
        asked=request.model_dump(mode="json"),
    )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a disk to become larger; the node is to become what it was before the first time."""
    asked = Grow.model_validate(operation.asked)
    repeated = ask(session, caller, str(operation.disk_id), None, asked)
    if operation.ending is not Ending.UNDONE and repeated.node_id == operation.node_id:
        repeated.request = {**operation.request, **repeated.request}
    return repeated


@workflow("disk.grow", settle=offline.settle_node, again=again)
def grow(run: Run) -> None:
    """Make a disk larger. One that has become so by half is larger, which harms nobody."""
    parts, disk = run.parts, run.operation.disk_id
    assert disk is not None  # noqa: S101 - the claim of this verb
    volume = Volume(Kind.DISK, disk)

    def enlarge() -> str:
        found = parts.storage.find(volume)
        if found is None or found.size < run.request["size"]:  # an earlier one may have gone further
            parts.storage.grow(disk, run.request["size"])
        return _note(parts, volume)

    with run.all_or_nothing():
        offline.take(run, restart=run.request["restart"])
        run.step("grow", enlarge, undo=lambda: _note(parts, volume))
        offline.give_back(run)


def _note(parts: Parts, volume: Volume) -> str:
    """Write how large a disk is now."""
    found = parts.storage.find(volume)
    if found is None:
        return "the storage does not have it"
    with parts.db.write() as session:
        session.get_one(Disk, volume.id).size = found.size
    return f"{found.size >> 20} MiB"
