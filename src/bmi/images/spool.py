"""The spool: where files lie that are not in the store. Each is named after the id of what it belongs to.

    uploads/<upload>        what has arrived of an upload
    work/<image>/           a file on its way to becoming that image
    exports/<operation>/    an image that waits to be fetched

Where the API and workers run on different hosts they share it.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from bmi.errors import InUse, NotFound
from bmi.images.intake.space import Room
from bmi.settings import Settings

_MODE = 0o644  # read by nobody in the sandbox; the folder above lets in the service alone


class Spool:
    """The folders of one installation."""

    def __init__(self, settings: Settings) -> None:
        self._root = settings.spool
        self._reserve = settings.intake.reserve

    @property
    def uploads(self) -> Path:
        """Folder of uploads."""
        return self._made("uploads")

    @property
    def work(self) -> Path:
        """Folder of files on their way in."""
        return self._made("work")

    @property
    def exports(self) -> Path:
        """Folder of images that wait to be fetched."""
        return self._made("exports")

    @property
    def room(self) -> Room:
        """The file system that it is on."""
        return Room(self._made("uploads"), self._reserve)

    @contextmanager
    def upload(self, id: UUID) -> Iterator[int]:
        """Open an upload, alone: nobody else can write to it meanwhile.

        Raises:
            InUse: Somebody else has it open.
        """
        path = self.uploads / str(id)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE)
        try:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise InUse(
                    f"upload {id} is being sent over another connection",
                    next_step="wait a minute and go on, or end the other one",
                ) from error
            yield file
        finally:
            os.close(file)

    def take(self, id: UUID, size: int, destination: Path) -> None:
        """Let an upload, which nobody writes to any more, appear under another name too.

        Raises:
            NotFound: It is not here, or not whole.
        """
        with self.upload(id) as file:
            found = os.fstat(file).st_size
            if found != size:
                raise NotFound(
                    f"of upload {id} there are {found} bytes in {self.uploads}, and {size} had arrived",
                    next_step="where processes are on several hosts, let them share intake.spool; upload it again",
                )
            destination.unlink(missing_ok=True)
            os.link(self.uploads / str(id), destination)

    def remove_upload(self, id: UUID) -> None:
        """Remove what has arrived of an upload."""
        (self.uploads / str(id)).unlink(missing_ok=True)

    def _made(self, name: str) -> Path:
        folder = self._root / name
        if not folder.is_dir():
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        return folder
