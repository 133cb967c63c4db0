"""Images are copied, promoted, put into the trash and removed from there."""

import logging
from datetime import timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned, flush_new
from bmi.api.image_life import ImageCopy, ImagePromote
from bmi.db import now
from bmi.drivers.storage import Kind, Volume
from bmi.errors import InUse, WrongState
from bmi.gateways.presence import logged
from bmi.ids import new_id
from bmi.images import life
from bmi.images.models import Image
from bmi.images.quota import require_room
from bmi.images.service import require_ready
from bmi.parts import Parts
from bmi.provisioning import images
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.holding import refuse_worked_on
from bmi.provisioning.late import SYSTEM
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation
from bmi.provisioning.workers import OPERATIONS

log = logging.getLogger(__name__)


def ask_copy(
    session: Session, caller: Caller, ref: str, project: str | None, request: ImageCopy
) -> Operation:
    """Write down a copy of an image to be made, without copying its content.

    Raises:
        NotFound: There is no such image or project for this caller.
        NotAllowed: The caller may not write images in that project; everybody's are for admins.
        AlreadyExists: There is an image of that name.
        QuotaExceeded: The project may not own as much.
    """
    source = find_owned(session, caller, Image, ref, Action.IMAGE_READ, project=project)
    require_ready(source)
    to = life.destination(
        session,
        caller,
        request.project or (None if request.everybody else project),
        everybody=request.everybody,
    )
    require_room(session, to.id if to else None, images=1, image_bytes=source.size)
    image = Image(
        id=new_id(),
        name=request.name,
        project_id=to.id if to else None,
        state="creating",
        origin="copy",
        parent_id=source.id,
        size=source.size,
        visibility="private" if to else "public",
        description=source.description,
        labels=dict(source.labels),
        deprecated=source.deprecated,
        digest=source.digest,
        source_digest=source.source_digest,
        report=source.report,
        changes=source.changes,
        promoted_at=(source.promoted_at or source.created_at) if source.golden else None,
    )
    session.add(image)
    flush_new(session, f"image {image.name}" + (f" in project {to.name}" if to else ""))
    asked = request.model_dump(mode="json") | {"project": str(to.id) if to else None}
    return _ask_copy(session, caller, image, source.id, asked)


def _ask_copy(
    session: Session, caller: Caller, image: Image, source: UUID, asked: dict[str, Any]
) -> Operation:
    return ask_operation(
        session,
        caller,
        "image.copy",
        f"image {image.name}",
        project=image.project_id,
        image=image.id,
        request={"source": str(source)},
        result={"image": image.name, "image_id": str(image.id)},
        asked=asked,
    )


def copy_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a copy: for the one that was half-made, if there is one, else for a new one."""
    request, source = ImageCopy.model_validate(operation.asked or {}), operation.request["source"]
    image = session.get(Image, operation.image_id)
    if image is None:
        return ask_copy(session, caller, source, None, request)
    life.destination(session, caller, request.project, everybody=request.everybody)
    found = find_owned(session, caller, Image, source, Action.IMAGE_READ, project=None)
    return _ask_copy(session, caller, image, found.id, operation.asked or {})


@workflow("image.copy", settle=images.settle_build, again=copy_again)
def copy(run: Run) -> None:
    """Make an image that has another one's content."""
    storage, image, source = run.parts.storage, images.claimed(run), UUID(run.request["source"])
    most = run.parts.settings.images.max_depth

    def duplicate() -> str:
        depth = storage.depth(Volume(Kind.IMAGE, source)) + 1
        if depth > most:
            raise WrongState(
                f"a copy of image {source} would depend on {depth} others, one behind the other; "
                f"{most} are allowed",
                next_step=f"have that image made independent first: bmi image flatten {source}",
            )
        storage.copy(source, image)
        return "nothing copied but its name"

    def remove() -> str:
        storage.remove(Volume(Kind.IMAGE, image))
        return "gone"

    with run.all_or_nothing():
        run.step("copy", duplicate, undo=remove)


def ask_promote(
    session: Session, caller: Caller, ref: str, project: str | None, request: ImagePromote
) -> Operation:
    """Make a golden image of a snapshot, and have it made independent of the disk that it was taken from.

    Raises:
        NotFound: There is no such image for this caller.
        NotAllowed: The caller may not change it, or not make it public.
        WrongState: It is golden already, or not ready.
        AlreadyExists: Another image has the new name.
    """
    image = life.own_image(session, caller, ref, project)
    require_ready(image)
    if image.golden:
        raise WrongState(
            f"image {image.name} is a golden image already",
            next_step=f"change what you like about it: bmi image set {ref}",
        )
    if request.public:
        life.publish(caller, image)
    if request.name is not None:
        life.rename(session, image, request.name)
    image.promoted_at = now()
    return images.ask_flatten(session, caller, str(image.id), None)


def trash(session: Session, parts: Parts, caller: Caller, ref: str, project: str | None) -> Image:
    """Put an image into the trash. What was made of it stays as it is, also while it is being made.

    Raises:
        NotFound: There is no such image for this caller.
        NotAllowed: The caller may not change it.
        InUse: An operation works on it.
        WrongState: It is there already, or it is half-made.
    """
    image = life.own_image(session, caller, ref, project)
    refuse_worked_on(session, image)
    life.trash(session, image, parts.db.clock(session))
    return image


def empty_trash(parts: Parts) -> None:
    """Have images removed that have been in the trash for long enough, each by an operation.

    One that something is being made of stays until the next time.
    """
    kept = timedelta(days=parts.settings.images.trash_days)
    with parts.db.read() as session:
        since = parts.db.clock(session) - kept
        due = session.scalars(
            select(Image.id).where(Image.state == "ready", Image.deleted_at <= since).order_by(Image.id)
        ).all()
    for id in due:
        logged(f"image {id} in the trash", _remove, parts, id)


def _remove(parts: Parts, id: UUID) -> None:
    try:
        with parts.db.write() as session:
            image = session.get(Image, id)
            if image is None or image.deleted_at is None:
                return  # taken out meanwhile
            operation = images.ask_delete(session, SYSTEM, str(id), None)
            parts.signals.send(session, OPERATIONS, str(operation.id))
    except InUse as error:
        log.info("image %s stays in the trash for now: %s", id, error)
