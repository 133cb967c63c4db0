"""Images are made ready for network boot, as new ones: the image that was there stays as it is."""

from typing import Any
from uuid import UUID

from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned, flush_new, owner
from bmi.api.operations import Ending
from bmi.api.readiness import ImagePrepare, Severity
from bmi.drivers.storage import Kind, Volume
from bmi.errors import ImageInvalid, WrongState
from bmi.ids import new_id
from bmi.images.models import Image
from bmi.images.quota import require_room
from bmi.images.readiness import prepare as readiness
from bmi.images.service import require_ready
from bmi.parts import Parts
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.image_check import appliance_of, summary, telling
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask(session: Session, caller: Caller, ref: str, project: str | None, request: ImagePrepare) -> Operation:
    """Write down an image to be made from another one, ready for network boot.

    It belongs to the caller's project; an admin's to the same as the one that it is made from.

    Raises:
        NotFound: There is no such image for this caller.
        AlreadyExists: There is an image of that name.
        WrongState: The one to make it from is not ready.
        QuotaExceeded: The project may not own as much.
    """
    source = find_owned(session, caller, Image, ref, Action.IMAGE_READ, project=project)
    require_ready(source)
    home = _home(session, caller, source, project)
    require_room(session, home.id if home else None, images=1, image_bytes=source.size)
    image = Image(
        id=new_id(),
        name=request.name or f"{source.name}-prepared",
        project_id=home.id if home else None,
        state="creating",
        origin="copy",
        parent_id=source.id,
        size=source.size,
        visibility="private" if home else "public",
    )
    session.add(image)
    flush_new(session, f"image {image.name}")
    return _ask(session, caller, source.id, image)


def _home(session: Session, caller: Caller, source: Image, project: str | None) -> Project | None:
    if caller.admin and project is None:
        return source.project
    return owner(session, caller, Action.IMAGE_WRITE, project)


def _ask(session: Session, caller: Caller, source: UUID, image: Image) -> Operation:
    """Ask for it. The scratch disk has no row of its own: it lives no longer than the operation."""
    request: dict[str, Any] = {"source": str(source)}
    return ask_operation(
        session,
        caller,
        "image.prepare",
        f"image {image.name}",
        project=image.project_id,
        image=image.id,
        disk=new_id(),
        request=request,
        result={"image": image.name, "image_id": str(image.id)},
        asked={**request, "name": image.name, "project": str(image.project_id) if image.project_id else None},
    )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a prepared image: for the one that was half-made, if there is one, else for a new one."""
    image = session.get(Image, operation.image_id)
    source = str(operation.request["source"])
    if image is None:
        asked = operation.asked or {}
        return ask(session, caller, source, asked.get("project"), ImagePrepare(name=asked.get("name")))
    authorize(caller, Action.IMAGE_WRITE, image.project_id, thing=f"image {image.name}")
    find_owned(session, caller, Image, source, Action.IMAGE_READ, project=None)
    return _ask(session, caller, UUID(source), image)


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how preparing left the new image."""
    image = session.get_one(Image, operation.image_id)
    if ending is Ending.SUCCEEDED:
        image.state = "ready"
    elif ending is Ending.UNDONE:
        session.delete(image)


@workflow("image.prepare", settle=settle, again=again)
def prepare(run: Run) -> None:
    """Change a scratch clone of an image, and freeze it as a new one."""
    parts, storage, source = run.parts, run.parts.storage, UUID(run.request["source"])
    image, scratch = _claims(run)

    def change() -> str:
        # From the beginning: whoever was killed in the middle left it half-changed.
        storage.remove(Volume(Kind.DISK, scratch))
        storage.clone(source, scratch)
        backing = storage.backing(Volume(Kind.DISK, scratch))
        prepared = readiness.prepare(appliance_of(parts.settings), backing, telling(run, "prepare"))
        if blocking := [each for each in prepared.report.findings if each.severity is Severity.BLOCKS]:
            raise ImageInvalid(
                f"it would not boot even after these changes: {'; '.join(prepared.changes)}; "
                f"{blocking[0].message}",
                next_step=blocking[0].next_step,
            )
        with parts.db.write() as session:
            row = session.get_one(Image, image)
            row.changes = {"changes": prepared.changes}
            row.report = prepared.report.model_dump(mode="json")
        return f"{len(prepared.changes)} changes; {summary(prepared.report)}"

    def remove_scratch() -> str:
        storage.remove(Volume(Kind.DISK, scratch))
        return "gone"

    def freeze() -> str:
        depth, most = storage.depth(Volume(Kind.DISK, scratch)) + 1, parts.settings.images.max_depth
        if depth > most:
            raise WrongState(
                f"the prepared image would depend on {depth} others, one behind the other; {most} are allowed",
                next_step=f"make the image independent first: bmi image flatten {source}",
            )
        storage.snapshot(scratch, image)
        return "frozen, nothing copied"

    def unfreeze() -> str:
        storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("prepare", change, undo=remove_scratch)
        run.step("snapshot", freeze, undo=unfreeze)
        run.step("scratch disk", remove_scratch)


def _claims(run: Run) -> tuple[UUID, UUID]:
    operation = run.operation
    assert operation.image_id is not None and operation.disk_id is not None  # noqa: S101, PT018 - this verb's
    return operation.image_id, operation.disk_id
