"""Images are written into files that can be fetched."""

import shutil
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize, unknown
from bmi.access.service import find_owned, owner
from bmi.api.intake import Format, ImageExport
from bmi.api.operations import Ending
from bmi.drivers.storage import Kind, Volume
from bmi.errors import NotFound, WrongState
from bmi.images.intake import convert, digest
from bmi.images.intake.space import part_of
from bmi.images.models import Image
from bmi.images.service import require_ready
from bmi.images.spool import Spool
from bmi.parts import Parts
from bmi.provisioning.copying import telling
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

_FILE = "image"


def ask(
    session: Session, parts: Parts, caller: Caller, ref: str, project: str | None, request: ImageExport
) -> Operation:
    """Write down an image to be written into a file.

    The image is not claimed: others may work with it, and everybody's images are exported by many.

    Raises:
        NotFound: There is no such image for this caller.
        WrongState: It is not ready, or too many exports wait to be fetched.
    """
    image = find_owned(session, caller, Image, ref, Action.IMAGE_EXPORT, project=project)
    require_ready(image)
    home = image.project_id
    if home is None and not caller.admin:  # everybody's image: the export belongs to who asks for it
        home = owner(session, caller, Action.IMAGE_EXPORT, project).id
    _refuse_many(session, parts, home)
    asked = request.model_dump(mode="json") | {"image": str(image.id), "project": project}
    return ask_operation(
        session,
        caller,
        "image.export",
        f"image {image.name}",
        project=home,
        request=asked,
        result={"image": image.name, "format": str(request.format)},
        asked=asked,
    )


def _refuse_many(session: Session, parts: Parts, project: UUID | None) -> None:
    limits, spool = parts.settings.intake, Spool(parts.settings)
    since = parts.db.clock(session) - timedelta(seconds=limits.keep)
    found = session.scalars(
        select(Operation.id).where(
            Operation.verb == "image.export",
            Operation.project_id == project if project else Operation.project_id.is_(None),
            or_(Operation.ended_at.is_(None), Operation.ended_at > since),
        )
    )
    count = sum((spool.exports / str(id)).exists() for id in found)
    if count >= limits.uploads:
        raise WrongState(
            f"{count} exports wait to be fetched, and {limits.uploads} are allowed",
            next_step="fetch them, or remove one: DELETE /v1/exports/OPERATION",
        )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for an export."""
    asked = operation.asked or {}
    request = ImageExport(format=asked["format"], compress=asked["compress"])
    return ask(session, parts, caller, asked["image"], asked["project"], request)


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Leave everything as it is: an export changes nothing."""


@workflow("image.export", settle=settle, again=again)
def export_image(run: Run) -> None:
    """Write an image into the spool, in the format that was asked for."""
    parts, image = run.parts, UUID(run.request["image"])
    limits, spool = parts.settings.intake, Spool(parts.settings)
    folder = spool.exports / str(run.operation.id)
    raw, whole = folder / "raw", folder / _FILE
    qcow2 = run.request["format"] == Format.QCOW2
    bounds = convert.Bounds(spool.room, limits.deadline, run.stop_if_cancelled)

    def written(step: str) -> Path:
        """Return the raw file, made again if it is lost."""
        folder.mkdir(exist_ok=True)
        if not raw.exists():
            spool.room.require(parts.storage.usage(Volume(Kind.IMAGE, image)).allocated)
            parts.storage.export_image(image, raw, telling(run, step))
            raw.chmod(0o644)
        return raw

    def write() -> str:
        path = written("write")
        return f"{path.stat().st_size >> 20} MiB, {path.stat().st_blocks >> 11} MiB of them in use"

    def convert_it() -> str:
        if not whole.exists():
            part = written("convert")
            if qcow2:
                part = part_of(whole)
                compress = run.request["compress"]
                convert.to_qcow2(raw, part, bounds, telling(run, "convert"), compress=compress)
            part.replace(whole)
        raw.unlink(missing_ok=True)
        return f"{whole.stat().st_size} bytes of {run.request['format']}"

    def measure() -> str:
        found = digest.digest(whole, telling(run, "digest"))
        (folder / "digest").write_text(found)
        return found

    def remove() -> str:
        _clear(folder)
        return "gone"

    with run.all_or_nothing():
        run.step("write", write, undo=remove)
        run.step("convert", convert_it)
        run.step("digest", measure)
    run.result |= {"size": whole.stat().st_size, "digest": (folder / "digest").read_text()}


def find(session: Session, parts: Parts, caller: Caller, id: UUID) -> tuple[Operation, Path]:
    """Return an export that waits to be fetched, and its file.

    Raises:
        NotFound: There is none for this caller, or it was fetched or removed.
    """
    operation = session.get(Operation, id)
    if operation is None or operation.verb != "image.export":
        raise unknown(f"export {id}")
    authorize(caller, Action.IMAGE_WRITE, operation.project_id, thing=f"export {id}")
    path = Spool(parts.settings).exports / str(id) / _FILE
    if operation.ending is not Ending.SUCCEEDED or not path.exists():
        raise NotFound(
            f"export {id} is not there: it is {operation.state}, or it was fetched or is too old",
            next_step="export the image again: bmi image export IMAGE FILE",
        )
    return operation, path


def remove(session: Session, parts: Parts, caller: Caller, id: UUID) -> None:
    """Remove an export before its time."""
    _, path = find(session, parts, caller, id)
    _clear(path.parent)


def _clear(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        shutil.rmtree(folder)  # to say why not
