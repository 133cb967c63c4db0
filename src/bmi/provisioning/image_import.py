"""Files from outside become images."""

import logging
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import flush_new
from bmi.api.intake import Format, ImageImport
from bmi.api.operations import Ending
from bmi.db import now
from bmi.drivers.storage import Kind, Volume
from bmi.errors import AlreadyExists, WrongState
from bmi.ids import new_id
from bmi.images import uploads
from bmi.images.intake import digest, fetch
from bmi.images.intake.convert import Bounds
from bmi.images.intake.work import Work
from bmi.images.models import Image, Upload
from bmi.images.quota import require_room
from bmi.images.spool import Spool
from bmi.parts import Parts
from bmi.provisioning.copying import telling
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation

log = logging.getLogger(__name__)


def ask(session: Session, parts: Parts, caller: Caller, request: ImageImport) -> Operation:
    """Write down an image to be made from a file; without a project, which only an admin may, it is everybody's.

    Raises:
        NotFound: There is no such upload for this caller.
        WrongState: The upload is not whole.
        InUse: The upload is becoming an image already.
        AlreadyExists: There is an image of that name, or with that content.
        FetchRefused: The URL is none that may be fetched.
    """
    project = uploads.owner_of_image(session, caller, request.project)
    project_id = project.id if project else None
    upload = _whole_upload(session, caller, request) if request.upload else None
    if request.url:
        fetch.checked(request.url)
    known = request.digest or (upload.digest if upload else None)
    if known and not request.again:
        refuse_known(session, project_id, known)
    require_room(session, project_id, images=1)  # its size is known when it is converted
    image = Image(
        id=new_id(),
        name=request.name,
        project_id=project_id,
        state="creating",
        origin="import",
        size=0,  # known when it is converted
        visibility="private" if project else "public",
    )
    session.add(image)
    flush_new(session, f"image {image.name}")
    asked = request.model_dump(mode="json") | {
        "project": str(project_id) if project_id else None,
        # What follows the question mark is often a key.
        "url": parts.vault.seal(request.url) if request.url else None,
        "digest": known,
        "size": upload.received if upload else None,
    }
    return _ask(session, caller, image, asked)


def _whole_upload(session: Session, caller: Caller, request: ImageImport) -> Upload:
    assert request.upload is not None  # noqa: S101 - the caller looked
    row = uploads.find(session, caller, request.upload)
    uploads.refuse_imported(session, row.id)
    if row.received == 0 or (row.size is not None and row.received != row.size):
        raise WrongState(
            f"of upload {row.id} {row.received} bytes have arrived, of {row.size or 'at least 1'}",
            next_step=f"send the rest: bmi image import FILE --resume {row.id}",
        )
    return row


def refuse_known(session: Session, project: UUID | None, known: str) -> None:
    """Refuse a content of which the project, or everybody, has a ready image; of others nothing is told.

    Raises:
        AlreadyExists: There is one.
    """
    mine = Image.visibility == "public"
    found = session.scalar(
        select(Image)
        .where(
            or_(Image.digest == known, Image.source_digest == known),
            or_(mine, Image.project_id.is_(None), Image.project_id == project),
            Image.state == "ready",
            Image.deleted_at.is_(None),
        )
        .limit(1)
    )
    if found is not None:
        raise AlreadyExists(
            f"image {found.name} has this content already",
            next_step="use that one, or store a second copy with --again",
        )


def _ask(session: Session, caller: Caller, image: Image, asked: dict[str, Any]) -> Operation:
    return ask_operation(
        session,
        caller,
        "image.import",
        f"image {image.name}",
        project=image.project_id,
        image=image.id,
        request=asked,
        result={"image": image.name, "image_id": str(image.id)},
        asked=asked,
    )


def again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for an import: of the upload, which is kept for a while, or of the URL."""
    asked = operation.asked or {}
    image = session.get(Image, operation.image_id)
    if image is not None:
        authorize(caller, Action.IMAGE_WRITE, image.project_id, thing=f"image {image.name}")
        return _ask(session, caller, image, asked)
    given = {name: value for name, value in asked.items() if name in ImageImport.model_fields}
    if given.get("url"):
        given["url"] = parts.vault.open(given["url"])
    return ask(session, parts, caller, ImageImport.model_validate(given))


def settle(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how importing left the image, and the upload."""
    image = session.get_one(Image, operation.image_id)
    upload = operation.request.get("upload")
    row = session.get(Upload, UUID(upload)) if upload else None
    if ending is Ending.SUCCEEDED:
        image.state = "ready"
        if row is not None:
            session.delete(row)
        return
    if row is not None:
        row.touched_at = now()  # it can be tried again, say with its format
    if ending is Ending.UNDONE:
        session.delete(image)


@workflow("image.import", settle=settle, again=again)
def import_image(run: Run) -> None:
    """Fetch a file, look at it, unpack and convert it, and take it into the store."""
    _Import(run).carry_out()


class _Import:
    """The steps of one import. Each makes again what an earlier one made, should that be lost."""

    def __init__(self, run: Run) -> None:
        parts = run.parts
        assert run.operation.image_id is not None  # noqa: S101 - the claim of this verb
        self._run = run
        self._parts = parts
        self._image = run.operation.image_id
        self._limits = parts.settings.intake
        self._spool = Spool(parts.settings)
        declared = run.request.get("format")
        self._work = Work(
            self._spool.work / str(self._image),
            declared=Format(declared) if declared else None,
            limit=self._limits.max_size,
            bounds=Bounds(self._spool.room, self._limits.deadline, run.stop_if_cancelled),
        )

    def carry_out(self) -> None:
        """Do it, or leave everything as it was."""
        run = self._run
        with run.all_or_nothing():
            run.step("fetch", self._fetch, undo=self._clear)
            run.step("look", self._look)
            run.step("unpack", self._unpack)
            run.step("convert", self._convert)
            run.step("import", self._take_in, undo=self._remove)
            run.step("tidy", self._tidy)
        with self._parts.db.read() as session:
            image = session.get_one(Image, self._image)
            run.result |= {"size": image.size, "digest": image.digest, "source_digest": image.source_digest}

    def _source(self, step: str) -> Path:
        return self._work.source(lambda path: self._get(path, step))

    def _get(self, path: Path, step: str) -> None:
        run = self._run
        if upload := run.request.get("upload"):
            self._spool.take(UUID(upload), run.request["size"], path)
            return
        bounds = fetch.Bounds(
            bytes=self._limits.max_size,
            seconds=self._limits.deadline,
            room=self._spool.room,
            networks=self._limits.networks,
        )
        fetch.fetch(self._parts.vault.open(run.request["url"]), path, bounds, telling(run, step))

    def _fetch(self) -> str:
        path = self._source("fetch")
        whence = "uploaded" if self._run.request.get("upload") else "fetched"
        return f"{whence}, {path.stat().st_size} bytes"

    def _look(self) -> str:
        path, request = self._source("look"), self._run.request
        found = self._work.look()  # first, because it takes no time
        source = digest.digest(path, telling(self._run, "look"))
        digest.require(source, request.get("digest"))
        # A raw disk is its own content; it need not be read twice.
        self._write_down(source_digest=source, digest=source if found.format is Format.RAW else None)
        self._refuse_known(source)
        return str(found)

    def _unpack(self) -> str:
        self._source("unpack")
        _, found = self._work.disk(telling(self._run, "unpack"))
        return str(found) if found.compression else "it is not compressed"

    def _convert(self) -> str:
        raw = self._raw("convert")
        with self._parts.db.read() as session:
            known = session.get_one(Image, self._image).digest
        content = known or digest.digest(raw, telling(self._run, "convert"))
        self._refuse_known(content)
        self._write_down_content(content, raw.stat().st_size)
        return f"{raw.stat().st_size >> 20} MiB, {content}"

    def _take_in(self) -> str:
        storage = self._parts.storage
        info = storage.import_image(self._image, self._raw("import"), telling(self._run, "import"))
        used = storage.usage(info.volume).allocated
        return f"{info.size >> 20} MiB, {used >> 20} MiB of them in use"

    def _raw(self, step: str) -> Path:
        self._source(step)
        return self._work.raw(telling(self._run, step))

    def _write_down_content(self, content: str, size: int) -> None:
        with self._parts.db.write() as session:
            image = session.get_one(Image, self._image)
            require_room(session, image.project_id, image_bytes=size - image.size)
            image.digest, image.size = content, size

    def _write_down(self, **what: Any) -> None:
        with self._parts.db.write() as session:
            image = session.get_one(Image, self._image)
            for name, value in what.items():
                setattr(image, name, value)

    def _refuse_known(self, known: str) -> None:
        if self._run.request.get("again"):
            return
        with self._parts.db.read() as session:
            refuse_known(session, session.get_one(Image, self._image).project_id, known)

    def _clear(self) -> str:
        self._work.clear()
        return "gone"

    def _remove(self) -> str:
        self._parts.storage.remove(Volume(Kind.IMAGE, self._image))
        return "gone"

    def _tidy(self) -> str:
        try:
            self._work.clear()
            if upload := self._run.request.get("upload"):
                self._spool.remove_upload(UUID(upload))
        except OSError as error:
            # The image is there; convergence removes the rest.
            log.warning("the spool could not be tidied: %s", error)
            return f"later: {error.strerror}"
        return "the spool is empty again"
