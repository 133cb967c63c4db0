"""Use cases of uploads: files that come in piece by piece, over as many connections as it takes."""

import os
from contextlib import ExitStack
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned, owner
from bmi.api import intake as wire
from bmi.audit import trail
from bmi.db import now
from bmi.errors import BadRequest, InUse, WrongState
from bmi.ids import new_id
from bmi.images.intake.space import write_at
from bmi.images.models import Upload
from bmi.images.spool import Spool
from bmi.parts import Parts
from bmi.provisioning.models import Operation

_SYNC = 64 << 20  # bytes after which what has arrived is written down


def create(session: Session, parts: Parts, caller: Caller, request: wire.UploadCreate) -> Upload:
    """Write down a file that is about to be sent; without a project it is an admin's.

    Raises:
        BadRequest: It is larger than allowed.
        WrongState: The project has too many that are not finished.
    """
    project = owner_of_image(session, caller, request.project)
    limits = parts.settings.intake
    if request.size and request.size > limits.max_size:
        raise BadRequest(
            f"the file has {request.size} bytes, and {limits.max_size} are allowed",
            next_step="make the image smaller, or ask the admin to raise intake.max_size",
        )
    project_id = project.id if project else None
    same = Upload.project_id == project_id if project_id else Upload.project_id.is_(None)
    count = session.scalar(select(func.count()).select_from(Upload).where(same)) or 0
    if count >= limits.uploads:
        raise WrongState(
            f"there are {count} unfinished uploads, and {limits.uploads} are allowed",
            next_step="import or remove one of them: bmi image uploads",
        )
    row = Upload(
        id=new_id(), project_id=project_id, asked_by=caller.name, size=request.size, digest=request.digest
    )
    session.add(row)
    session.flush()
    trail.makes(f"upload {row.id}")
    return row


def owner_of_image(session: Session, caller: Caller, project: str | None) -> Project | None:
    """Return the project that a new image will belong to; None for everybody's, which only an admin makes."""
    if project is None and caller.admin:
        return None
    return owner(session, caller, Action.IMAGE_WRITE, project)


def find(session: Session, caller: Caller, id: UUID) -> Upload:
    """Return an upload of the caller's project.

    Raises:
        NotFound: There is none for this caller.
    """
    row = find_owned(session, caller, Upload, str(id), Action.IMAGE_WRITE, project=None)
    authorize(caller, Action.IMAGE_WRITE, row.project_id, thing=f"upload {id}")
    return row


def refuse_imported(session: Session, upload: UUID) -> None:
    """Refuse an upload that an operation makes an image of.

    Raises:
        InUse: One does.
    """
    if operation := import_of(session, upload):
        raise InUse(
            f"upload {upload} is becoming an image",
            next_step=f"wait for it (bmi op wait {operation.id}), or cancel it",
        )


def import_of(session: Session, upload: UUID) -> Operation | None:
    """Return the operation that makes an image of an upload now."""
    running = session.scalars(
        select(Operation).where(Operation.verb == "image.import", Operation.ended_at.is_(None))
    )
    return next((row for row in running if row.request.get("upload") == str(upload)), None)


def remove(session: Session, parts: Parts, caller: Caller, id: UUID) -> None:
    """Forget an upload, and remove what has arrived of it.

    Raises:
        InUse: It is becoming an image.
    """
    row = find(session, caller, id)
    refuse_imported(session, id)
    session.delete(row)
    session.flush()
    Spool(parts.settings).remove_upload(id)


class Receiving:
    """A piece of an upload that is arriving. What it has written down is on the disk."""

    def __init__(self, parts: Parts, caller: Caller, id: UUID, offset: int) -> None:
        """Begin.

        Raises:
            NotFound: There is no such upload for this caller.
            InUse: Another connection sends it, or it is becoming an image.
            WrongState: The piece does not begin where the last one ended.
        """
        self._parts = parts
        self._id = id
        self._spool = Spool(parts.settings)
        self._stack = ExitStack()
        with self._stack:
            with parts.db.read() as session:
                find(session, caller, id)
            self._file = self._stack.enter_context(self._spool.upload(id))
            # Again, now that nobody else can change it.
            with parts.db.read() as session:
                row = find(session, caller, id)
                refuse_imported(session, id)
                self._end = min(row.size or parts.settings.intake.max_size, parts.settings.intake.max_size)
                # Less than was written down is there only where the spool was lost.
                self._at = min(row.received, os.fstat(self._file).st_size)
            if offset != self._at:
                self._written_down = self._at
                self.write_down()
                raise WrongState(
                    f"upload {id} has {self._at} bytes, and a piece from byte {offset} on was sent",
                    next_step=f"go on at offset={self._at}",
                )
            os.ftruncate(self._file, self._at)
            self._written_down = self._at
            self._stack = self._stack.pop_all()

    def take(self, data: bytes) -> None:
        """Append.

        Raises:
            BadRequest: It becomes larger than was said, or than is allowed.
            StorageFull: The spool has no room.
        """
        if self._at + len(data) > self._end:
            raise BadRequest(
                f"upload {self._id} would become larger than its {self._end} bytes",
                next_step="say the right size when it is made, or ask the admin to raise intake.max_size",
            )
        write_at(self._file, data, self._at)
        self._at += len(data)
        if self._at - self._written_down >= _SYNC:
            self.write_down()

    def write_down(self) -> None:
        """Write down how much has arrived, once it is on the disk."""
        os.fdatasync(self._file)
        with self._parts.db.write() as session:
            row = session.get(Upload, self._id)
            if row is not None:
                row.received, row.touched_at = self._at, now()
        self._written_down = self._at
        self._spool.room.require()

    def close(self) -> None:
        """Let others have it."""
        self._stack.close()


def view(session: Session, row: Upload) -> wire.Upload:
    """Return an upload as it goes over the wire."""
    project = session.get(Project, row.project_id) if row.project_id else None
    return wire.Upload(
        id=row.id,
        project=project.name if project else None,
        asked_by=row.asked_by,
        size=row.size,
        digest=row.digest,
        received=row.received,
        created_at=row.created_at,
        touched_at=row.touched_at,
    )
