"""Use cases of images and disks that need no operation: finding them, and saying what holds them."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned
from bmi.boot.models import Boot
from bmi.errors import InUse, WrongState
from bmi.images.models import Disk, Image


def ready_image(session: Session, caller: Caller, ref: str, project: Project) -> Image:
    """Return an image that a project may clone.

    Raises:
        NotFound: The project has none of that name, and the site neither.
        WrongState: It is not ready.
    """
    image = find_owned(session, caller, Image, ref, Action.IMAGE_READ, project=str(project.id))
    require_ready(image)
    return image


def require_ready(thing: Image | Disk) -> None:
    """Refuse an image or a disk that is on its way in or out.

    Raises:
        WrongState: It is not ready, or in the trash.
    """
    if isinstance(thing, Image) and thing.deleted_at is not None:
        raise WrongState(
            f"image {thing.name} is in the trash", next_step=f"take it out: bmi image undelete {thing.id}"
        )
    if thing.state != "ready":
        raise WrongState(
            f"{type(thing).__name__.lower()} {thing.name} is {thing.state}",
            next_step="wait until it is ready: bmi op list",
        )


def warning(image: Image | None) -> dict[str, str]:
    """Return what belongs into the result of an operation that makes something of an image."""
    if image is None or image.deprecated is None:
        return {}
    return {"warning": f"image {image.name} is deprecated: {image.deprecated}"}


def node_of(session: Session, disk: Disk) -> str | None:
    """Return the name of the node that boots from a disk."""
    record = session.scalar(select(Boot).where(Boot.disk_id == disk.id))
    return record.node.name if record else None


def refuse_disk_in_use(session: Session, disk: Disk) -> None:
    """Refuse a disk that boots a node, or is not ready.

    Raises:
        InUse: A node boots from it.
        WrongState: It is not ready.
    """
    refuse_booted(session, disk)
    require_ready(disk)


def refuse_booted(session: Session, disk: Disk) -> None:
    """Refuse a disk that boots a node.

    Raises:
        InUse: A node boots from it.
    """
    if name := node_of(session, disk):
        raise InUse(
            f"disk {disk.name} is exported to node {name}",
            next_step=f"give the node back first: bmi node deprovision {name} --keep-disk",
        )
