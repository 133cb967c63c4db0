"""What a project may own, and what it owns.

Sizes are those that were asked for, the bytes that a node sees: what the store really takes changes with every
write and with what volumes have in common, and nobody could plan with it. Everything that has a row counts: also
what is being made or removed, and what is in the trash, for it can come back.
"""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.errors import QuotaExceeded
from bmi.images.models import Disk, Image
from bmi.nodes.models import Node

_MIB = 1 << 20


@dataclass(frozen=True)
class Use:
    """What a project owns."""

    nodes: int
    """Those that it boots, and those that are allocated to it."""
    images: int
    image_bytes: int
    disks: int
    disk_bytes: int
    trashed_images: int
    """Of the images, those in the trash."""
    trashed_image_bytes: int


def use_of(session: Session, project_id: UUID) -> Use:
    """Return what a project owns."""
    trashed = Image.deleted_at.is_not(None)
    images = session.execute(
        select(
            func.count(),
            func.coalesce(func.sum(Image.size), 0),
            func.count().filter(trashed),
            func.coalesce(func.sum(Image.size).filter(trashed), 0),
        ).where(Image.project_id == project_id)
    ).one()
    disks = session.execute(
        select(func.count(), func.coalesce(func.sum(Disk.size), 0)).where(Disk.project_id == project_id)
    ).one()
    return Use(
        nodes=session.execute(
            select(func.count()).select_from(Node).where(Node.project_id == project_id)
        ).scalar_one(),
        images=images[0],
        image_bytes=int(images[1]),
        trashed_images=images[2],
        trashed_image_bytes=int(images[3]),
        disks=disks[0],
        disk_bytes=int(disks[1]),
    )


def require_room(
    session: Session,
    project_id: UUID | None,
    *,
    nodes: int = 0,
    images: int = 0,
    disks: int = 0,
    image_bytes: int = 0,
    disk_bytes: int = 0,
) -> None:
    """Refuse more than a project may own. To be called before what is new is added.

    Args:
        session: The transaction that writes what is new, from `Db.write`: what is counted stays true until it ends.
        project_id: The project; what belongs to none has no limit.
        nodes: How many nodes more are to be its.
        images: How many images more it is to own.
        disks: How many disks more.
        image_bytes: How many bytes more its images are to have, of those that a node sees.
        disk_bytes: The same for its disks.

    Raises:
        QuotaExceeded: It may not own as much.
    """
    if project_id is None:
        return
    project, use = session.get_one(Project, project_id), use_of(session, project_id)
    for what, option, limit, used, more, trashed in (
        ("nodes", "nodes", project.max_nodes, use.nodes, nodes, 0),
        ("images", "images", project.max_images, use.images, images, use.trashed_images),
        ("disks", "disks", project.max_disks, use.disks, disks, 0),
        (
            "bytes of images",
            "image-bytes",
            project.max_image_bytes,
            use.image_bytes,
            image_bytes,
            use.trashed_image_bytes,
        ),
        ("bytes of disks", "disk-bytes", project.max_disk_bytes, use.disk_bytes, disk_bytes, 0),
    ):
        if limit is not None and more > 0 and used + more > limit:
            raise _exceeded(project.name, what, option, limit=limit, used=used, more=more, trashed=trashed)


def _exceeded(
    project: str, what: str, option: str, *, limit: int, used: int, more: int, trashed: int
) -> QuotaExceeded:
    in_trash = f", {_number(trashed, what)} of that in the trash" if trashed else ""
    free = "give back what nobody needs" if what == "nodes" else "remove what nobody needs"
    if trashed:
        free += ", or empty the trash (bmi image delete IMAGE --now)"
    return QuotaExceeded(
        f"project {project} may own {_amount(limit, what)} and owns {_amount(used, what)}{in_trash}; "
        f"{_amount(more, what)} more would be too much",
        next_step=f"{free}, or ask an admin for more: bmi project quota {project} --{option} MORE",
    )


def _amount(number: int, what: str) -> str:
    """Return an amount in words."""
    unit = what.removeprefix("bytes") if what.startswith("bytes") else f" {what}"
    return _number(number, what) + (unit.removesuffix("s") if number == 1 and unit == f" {what}" else unit)


def _number(number: int, what: str) -> str:
    """Return a number; bytes as MiB, where that says it exactly."""
    if not what.startswith("bytes"):
        return str(number)
    return f"{number // _MIB} MiB" if number % _MIB == 0 else f"{number} bytes"
