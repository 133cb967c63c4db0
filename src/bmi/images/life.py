"""What changes about an image while its content stays: words, labels, who may use it, whose it is, the trash."""

from datetime import datetime
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_own, find_owned, other_project, owner
from bmi.api import image_life as wire
from bmi.errors import AlreadyExists, BadRequest, NotFound, WrongState
from bmi.images.models import Image, ImageShare
from bmi.images.quota import require_room
from bmi.images.service import require_ready


def own_image(session: Session, caller: Caller, ref: str, project: str | None) -> Image:
    """Find an image that a caller may change.

    Raises:
        NotFound: There is none that the caller may know of.
        NotAllowed: The caller may use it, but not change it.
    """
    return find_own(
        session,
        caller,
        Image,
        ref,
        write=Action.IMAGE_WRITE,
        read=Action.IMAGE_READ,
        project=project,
        may="read and clone it",
        next_step=f"make a copy of your own: bmi image copy {ref} NAME",
    )


def trashed_image(session: Session, caller: Caller, ref: str, project: str | None) -> Image:
    """Find an image in the trash, for a caller who may change it. An id also finds one that is not there.

    Raises:
        NotFound: There is none that the caller may know of.
        NotAllowed: The caller may see it, but not change it.
    """
    try:
        return find_owned(session, caller, Image, ref, Action.IMAGE_WRITE, project=project, trashed=True)
    except NotFound as error:
        raise NotFound(
            f"there is no image {ref} in the trash", next_step="see what is there: bmi image list --deleted"
        ) from error


def destination(session: Session, caller: Caller, project: str | None, *, everybody: bool) -> Project | None:
    """Return the project that an image goes to; None if it is to be everybody's.

    Raises:
        NotFound: There is no such project for this caller.
        NotAllowed: The caller may not give images to everybody, or write none in that project.
        BadRequest: None was named, and the token implies none; or one was named for what is everybody's.
    """
    if not everybody:
        return owner(session, caller, Action.IMAGE_WRITE, project)
    if project is not None:
        raise BadRequest(
            "what is everybody's belongs to no project", next_step="leave the project out, or `everybody`"
        )
    authorize(caller, Action.IMAGE_PUBLISH, None, thing="the system")
    return None


def change(
    session: Session, caller: Caller, ref: str, project: str | None, request: wire.ImageChange
) -> Image:
    """Change what is said about an image, and who may use it.

    Raises:
        NotFound: There is no such image for this caller.
        NotAllowed: The caller may not change it, or not make it public.
        AlreadyExists: Another one has the name.
        BadRequest: It would have too many labels; or it belongs to no project, and is everybody's for that.
    """
    image = own_image(session, caller, ref, project)
    given = request.model_fields_set
    if request.name is not None:
        rename(session, image, request.name)
    if request.description is not None:
        image.description = request.description
    if "deprecated" in given:
        image.deprecated = request.deprecated
    if request.labels:
        image.labels = _labelled(image, request.labels)
    if request.visibility is not None:
        _show_to(session, caller, image, request)
    session.flush()
    return image


def rename(session: Session, image: Image, name: str, *, next_step: str = "choose another name") -> None:
    """Give an image another name.

    Raises:
        AlreadyExists: Another one has it.
    """
    image.name = name
    _flush_named(session, image, next_step=next_step)


def publish(caller: Caller, image: Image) -> None:
    """Let every project use an image.

    Raises:
        NotAllowed: The caller is no admin.
    """
    authorize(caller, Action.IMAGE_PUBLISH, image.project_id, thing=f"image {image.name}")
    image.visibility = "public"


def shares(session: Session, caller: Caller, ref: str, project: str | None) -> list[ImageShare]:
    """Return with whom an image is shared, oldest first; its own project may know.

    Raises:
        NotFound: There is no such image for this caller.
    """
    image = find_owned(session, caller, Image, ref, Action.IMAGE_SHARES, project=project)
    return list(
        session.scalars(select(ImageShare).where(ImageShare.image_id == image.id).order_by(ImageShare.id))
    )


def share(session: Session, caller: Caller, ref: str, project: str | None, other: str) -> ImageShare:
    """Let another project use an image; one that was private is `shared` then.

    Raises:
        NotFound: There is no such image for this caller; or no such project, see `other_project`.
        BadRequest: It is that project's own, or everybody's.
    """
    image = own_image(session, caller, ref, project)
    require_ready(image)
    receiver = other_project(session, caller, other)
    if image.project_id is None:
        raise _everybodys(image)
    if receiver.id == image.project_id:
        raise BadRequest(
            f"image {image.name} belongs to project {receiver.name}", next_step="name another project"
        )
    row = session.scalar(
        select(ImageShare).where(ImageShare.image_id == image.id, ImageShare.project_id == receiver.id)
    )
    if row is None:
        row = ImageShare(image_id=image.id, project_id=receiver.id)
        session.add(row)
    if image.visibility == "private":
        image.visibility = "shared"
    session.flush()
    return row


def unshare(session: Session, caller: Caller, ref: str, project: str | None, other: str) -> None:
    """Let a project use an image no longer; the disks that it made of it stay whole.

    Raises:
        NotFound: There is no such image for this caller, or it is not shared with such a project.
    """
    image = own_image(session, caller, ref, project)
    rows = session.execute(
        select(ImageShare, Project.name)
        .join(Project, Project.id == ImageShare.project_id)
        .where(ImageShare.image_id == image.id)
    ).all()
    gone = [row for row, name in rows if other in (name, str(row.project_id))]
    if not gone:
        raise NotFound(
            f"image {image.name} is not shared with {other}",
            next_step=f"see with whom it is: bmi image shares {ref}",
        )
    session.delete(gone[0])
    if len(rows) == 1 and image.visibility == "shared":
        image.visibility = "private"
    session.flush()


def move(session: Session, caller: Caller, ref: str, project: str | None, request: wire.ImageMove) -> Image:
    """Give an image to another project; whom it was shared with loses it.

    Raises:
        NotFound: There is no such image or project for this caller.
        NotAllowed: The caller may not write images in both; everybody's are for admins.
        AlreadyExists: Another image has the name there.
        QuotaExceeded: The other project may not own as much.
    """
    image = own_image(session, caller, ref, project)
    require_ready(image)
    to = destination(session, caller, request.project, everybody=request.everybody)
    if to is not None and to.id == image.project_id:
        raise BadRequest(f"image {image.name} is in project {to.name} already", next_step="name another one")
    require_room(session, to.id if to else None, images=1, image_bytes=image.size)
    session.execute(delete(ImageShare).where(ImageShare.image_id == image.id))
    image.project = to
    image.visibility = "private" if to else "public"
    image.name = request.name or image.name
    _flush_named(session, image, next_step="give it another one: --name")
    return image


def trash(session: Session, image: Image, at: datetime) -> None:
    """Put an image into the trash, where nobody but its own project sees it.

    Raises:
        WrongState: It is there, or it is half-made.
    """
    if image.deleted_at is not None:
        raise WrongState(
            f"image {image.name} is in the trash already",
            next_step=f"remove it at once: bmi image delete {image.id} --now",
        )
    if image.state != "ready":
        raise WrongState(
            f"image {image.name} is {image.state}", next_step=f"remove it: bmi image delete {image.id} --now"
        )
    image.deleted_at = at


def undelete(
    session: Session, caller: Caller, ref: str, project: str | None, request: wire.ImageUndelete
) -> Image:
    """Take an image out of the trash, as it was when it was put there.

    Raises:
        NotFound: There is no such image for this caller.
        WrongState: It is not in the trash, or it is being removed from there.
        AlreadyExists: Another one has its name now.
    """
    image = trashed_image(session, caller, ref, project)
    if image.deleted_at is None:
        raise WrongState(f"image {image.name} is not in the trash", next_step="nothing to undelete")
    if image.state != "ready":
        raise WrongState(f"image {image.name} is {image.state}", next_step="it cannot come back any more")
    image.deleted_at = None
    rename(
        session,
        image,
        request.name or image.name,
        next_step=f"take it out under another one: bmi image undelete {image.id} --name NAME",
    )
    return image


def _labelled(image: Image, labels: dict[str, str | None]) -> dict[str, Any]:
    merged = {**image.labels, **labels}
    kept = {key: value for key, value in sorted(merged.items()) if value is not None}
    if len(kept) > wire.LABELS:
        raise BadRequest(
            f"image {image.name} would have {len(kept)} labels, and {wire.LABELS} are allowed",
            next_step="take some away",
        )
    return kept


def _show_to(session: Session, caller: Caller, image: Image, request: wire.ImageChange) -> None:
    """Say who may use an image. What is private is shared with nobody, also when it is shared again later."""
    if image.project_id is None:
        if request.visibility != "public":
            raise _everybodys(image)
    elif request.visibility == "public":
        publish(caller, image)
    elif request.visibility is not None:
        image.visibility = request.visibility
    if image.visibility == "private":
        session.execute(delete(ImageShare).where(ImageShare.image_id == image.id))


def _everybodys(image: Image) -> BadRequest:
    return BadRequest(
        f"image {image.name} belongs to no project, so it is everybody's",
        next_step=f"give it to a project first: bmi image move {image.name} PROJECT",
    )


def _flush_named(session: Session, image: Image, *, next_step: str) -> None:
    # Cannot be read any more once the flush has failed.
    words = f"image {image.name}" + (f" in project {image.project.name}" if image.project else "")
    try:
        session.flush()
    except IntegrityError as error:
        raise AlreadyExists(f"{words} exists already", next_step=next_step) from error
