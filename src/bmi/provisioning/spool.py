"""Removes from the spool what nobody waits for any more."""

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.operations import Ending
from bmi.images import uploads
from bmi.images.models import Upload
from bmi.images.spool import Spool
from bmi.parts import Parts
from bmi.provisioning.models import Operation


def sweep(parts: Parts) -> None:
    """Forget uploads to which nothing came for long, and remove files that belong to nothing."""
    _forget_stale(parts)
    spool = Spool(parts.settings)
    # What is there is listed first: whatever is made meanwhile has its row before its file.
    there = [*_named(spool.uploads), *_named(spool.work), *_named(spool.exports)]
    with parts.db.read() as session:
        wanted = set(_wanted(session, parts, spool))
    for path in there:
        if path not in wanted:
            _remove(path)


def _forget_stale(parts: Parts) -> None:
    with parts.db.read() as session:
        if session.scalar(select(Upload.id).limit(1)) is None:
            return  # as nearly always; writing would keep others from it
    with parts.db.write() as session:
        since = parts.db.clock(session) - timedelta(seconds=parts.settings.intake.keep)
        for row in session.scalars(select(Upload).where(Upload.touched_at < since)):
            if uploads.import_of(session, row.id) is None:
                session.delete(row)


def _wanted(session: Session, parts: Parts, spool: Spool) -> Iterator[Path]:
    yield from (spool.uploads / str(id) for id in session.scalars(select(Upload.id)))
    running = select(Operation).where(
        Operation.verb.in_(("image.import", "image.export")), Operation.ended_at.is_(None)
    )
    for operation in session.scalars(running):
        yield spool.work / str(operation.image_id)
        yield spool.exports / str(operation.id)
        yield spool.uploads / str(operation.request.get("upload"))
    since = parts.db.clock(session) - timedelta(seconds=parts.settings.intake.keep)
    fetchable = select(Operation.id).where(
        Operation.verb == "image.export", Operation.ending == Ending.SUCCEEDED, Operation.ended_at > since
    )
    yield from (spool.exports / str(id) for id in session.scalars(fetchable))


def _named(folder: Path) -> Iterator[Path]:
    """Go through what BMI put into a folder; what a person put there is left alone."""
    for path in folder.iterdir():
        try:
            UUID(path.name)
        except ValueError:
            continue
        yield path


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
