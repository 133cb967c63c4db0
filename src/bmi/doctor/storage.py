"""Looks at the storage: volumes, room, and what the store says of itself."""

from functools import partial
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.doctor import Family
from bmi.boot.models import Boot
from bmi.doctor.claims import claims
from bmi.doctor.codes import Code
from bmi.doctor.sheet import Check, Sheet
from bmi.drivers.storage import Kind, Volume
from bmi.errors import StorageError
from bmi.images.models import Disk, Image
from bmi.parts import Parts

_NEARLY_FULL = 0.1  # of the whole

_COUNTED = {Kind.IMAGE: "images", Kind.DISK: "disks", Kind.SEED: "seeds"}


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at."""
    return [
        Check(Family.STORAGE, "volumes", partial(_volumes, parts)),
        Check(Family.STORAGE, "room", partial(_room, parts)),
        Check(Family.STORAGE, "health", partial(_health, parts)),
    ]


def orphans(parts: Parts) -> list[Volume]:
    """Return the volumes that nothing in the database refers to."""
    with parts.db.read() as session:
        before = _known(session)
    real = [info.volume for info in parts.storage.volumes()]
    with parts.db.read() as session:
        after = _known(session)
    return sorted(set(real) - before - after, key=str)


def missing_seeds(parts: Parts) -> list[UUID]:
    """Return the boot records whose seed should be in the storage, and is not."""
    with parts.db.read() as session:
        before = _wanted(session)
    real = {info.volume for info in parts.storage.volumes()}
    with parts.db.read() as session:
        after = _wanted(session)
    return sorted(volume.id for volume in before & after - real if volume.kind is Kind.SEED)


def _volumes(parts: Parts, sheet: Sheet) -> None:
    with parts.db.read() as session:
        wanted_before, known_before = _wanted(session), _known(session)
    real = {info.volume for info in parts.storage.volumes()}
    with parts.db.read() as session:
        wanted, known, names = _wanted(session), _known(session), _names(session)
    for kind, name in _COUNTED.items():
        sheet.count(name, sum(volume.kind is kind for volume in real))
    # What came or went while this looked is neither missing nor an orphan.
    for volume in wanted_before & wanted - real:
        whose = f"{volume} ({names[volume.id]})"
        if volume.kind is Kind.SEED:
            sheet.note(Code.SEED_MISSING, whose, "the storage does not have it")
        else:
            sheet.note(Code.VOLUME_MISSING, whose, "the storage does not have its content")
    for volume in real - known_before - known:
        sheet.note(Code.VOLUME_ORPHAN, str(volume), "nothing in the database refers to it")


def _wanted(session: Session) -> set[Volume]:
    """Return the volumes that must exist, and that nobody is about to make or remove."""
    claimed = claims(session)
    images = session.scalars(select(Image.id).where(Image.state == "ready"))
    disks = session.scalars(select(Disk.id).where(Disk.state == "ready"))
    seeds = session.scalars(select(Boot.id).where(Boot.seeded, Boot.exported))
    found = {
        *(Volume(Kind.IMAGE, id) for id in images),
        *(Volume(Kind.DISK, id) for id in disks),
        *(Volume(Kind.SEED, id) for id in seeds),
    }
    return {volume for volume in found if volume.id not in claimed}


def _known(session: Session) -> set[Volume]:
    """Return the volumes that may exist: also those on their way in or out."""
    return {
        *(Volume(Kind.IMAGE, id) for id in session.scalars(select(Image.id))),
        *(Volume(Kind.DISK, id) for id in session.scalars(select(Disk.id))),
        *(Volume(Kind.SEED, id) for id in session.scalars(select(Boot.id))),
        # A scratch disk has no row: it lives no longer than its operation.
        *(Volume(Kind.DISK, id) for id in claims(session).ids),
    }


def _names(session: Session) -> dict[UUID, str]:
    return {
        **{row.id: f"image {row.name}" for row in session.scalars(select(Image))},
        **{row.id: f"disk {row.name}" for row in session.scalars(select(Disk))},
        **{row.id: f"node {row.node.name}" for row in session.scalars(select(Boot))},
    }


def _room(parts: Parts, sheet: Sheet) -> None:
    try:
        room = parts.storage.capacity()
    except StorageError as error:
        if error.transient:
            raise
        sheet.note(Code.STORAGE_ROOM_UNKNOWN, "storage", error.message, next_step=error.next_step)
        return
    message = f"{room.free >> 20} MiB of {room.total >> 20} MiB may still be used"
    if room.free <= 0:
        sheet.note(Code.STORAGE_FULL, "storage", message)
    elif room.free < room.total * _NEARLY_FULL:
        sheet.note(Code.STORAGE_NEARLY_FULL, "storage", message)


def _health(parts: Parts, sheet: Sheet) -> None:
    for complaint in parts.storage.complaints():
        code = Code.STORAGE_BROKEN if complaint.broken else Code.STORAGE_COMPLAINS
        sheet.note(code, complaint.name, complaint.message)
