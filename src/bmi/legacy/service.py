"""Use cases of the take-over: importing rows, and noting what the storage driver has adopted."""

from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.db import Db, now
from bmi.errors import BadRequest
from bmi.ids import new_id
from bmi.images.models import Disk, Image
from bmi.legacy.models import LegacyVolume
from bmi.legacy.plan import Kind, Known, Plan, Present, Row, make_plan
from bmi.legacy.source import read

_RESERVED = "/@"  # what separates pool, image and snapshot in Ceph


def take_over(db: Db, file: Path, *, uid: str, snapshot_name: str, dry_run: bool) -> Plan:
    """Make our rows for those of the original's database, all or none; Ceph is not touched.

    What an earlier import made stays as it is. Images and disks stay `creating` until they are adopted.

    Args:
        db: Our database, with the tables of this release.
        file: The original's database; it is only read.
        uid: What names in Ceph begin with.
        snapshot_name: The snapshot of each image in Ceph.
        dry_run: Whether nothing is made.

    Returns:
        What was made, or would be. With a conflict in it, nothing was.

    Raises:
        ImportRefused: The file is no such database.
        BadRequest: The uid or the name of the snapshot cannot be a part of a name in Ceph.
    """
    for what, value in (("uid", uid), ("snapshot name", snapshot_name)):
        if not value or not value.isprintable() or any(character in value for character in _RESERVED):
            raise BadRequest(
                f"{what} {value!r} cannot be a part of a name in Ceph", next_step="see [bmi] in bmiconfig.cfg"
            )
    old = read(file)
    if dry_run:
        with db.read() as session:
            return make_plan(old, _present(session), uid=uid)
    with db.write() as session:
        plan = make_plan(old, _present(session), uid=uid)
        if not plan.of("conflict"):
            _carry_out(session, plan, snapshot_name)
        return plan


def pending(session: Session) -> list[LegacyVolume]:
    """Return what the storage driver has still to adopt, parents before what was cloned from them."""
    return list(
        session.scalars(
            select(LegacyVolume).where(LegacyVolume.adopted_at.is_(None)).order_by(LegacyVolume.id)
        )
    )


def adopted(session: Session, volume: LegacyVolume, size: int) -> None:
    """Note that the storage driver has a volume under its own name now; it can be used from here on.

    Args:
        session: The transaction.
        volume: What was adopted.
        size: Its bytes, which the original did not keep.
    """
    row = volume.image or volume.disk
    if row is None:
        raise AssertionError("the table's check wants one of them")
    row.size, row.state = size, "ready"
    volume.adopted_at = now()


def _present(session: Session) -> Present:
    volumes = session.scalars(select(LegacyVolume))
    return Present(
        projects=frozenset(session.scalars(select(Project.name))),
        images=frozenset(
            (project, name)
            for project, name in session.execute(
                select(Project.name, Image.name).join(Image.project).where(Image.deleted_at.is_(None))
            )
        ),
        disks=frozenset(
            (project, name)
            for project, name in session.execute(select(Project.name, Disk.name).join(Disk.project))
        ),
        volumes={row.backend_name: Known(row.old_project, row.old_name, _kind(row)) for row in volumes},
    )


def _kind(volume: LegacyVolume) -> Kind:
    if volume.image is None:
        return "disk"
    return "snapshot" if volume.image.origin == "snapshot" else "image"


def _carry_out(session: Session, plan: Plan, snapshot_name: str) -> None:
    for row in plan.of("make"):
        if row.kind == "project":
            session.add(Project(name=row.name))
    session.flush()
    projects = {name: id for id, name in session.execute(select(Project.id, Project.name))}
    images = {
        backend_name: id
        for backend_name, id in session.execute(select(LegacyVolume.backend_name, LegacyVolume.image_id))
        if id is not None
    }
    for row in plan.of("make"):
        if row.kind == "project":
            continue
        parent = images.get(_backend_name_of_parent(row))
        if row.kind == "disk":
            made: Image | Disk = Disk(image_id=parent)
        else:
            made = Image(parent_id=parent, origin="snapshot" if row.kind == "snapshot" else "import")
        made.id, made.name, made.project_id = new_id(), row.name, projects[row.project]
        made.state, made.size = "creating", 0
        session.add(made)
        session.flush()
        session.add(_volume(row, made.id, snapshot_name))
        if row.kind != "disk":
            images[row.backend_name] = made.id
    session.flush()


def _volume(row: Row, id: UUID, snapshot_name: str) -> LegacyVolume:
    disk = row.kind == "disk"
    return LegacyVolume(
        image_id=None if disk else id,
        disk_id=id if disk else None,
        backend_name=row.backend_name,
        snapshot_name=None if disk else snapshot_name,
        old_name=row.old_name,
        old_project=row.old_project,
    )


def _backend_name_of_parent(row: Row) -> str:
    return row.backend_name.removesuffix(str(row.old_id)) + str(row.parent.id) if row.parent else ""
