"""Files that appear whole or not at all."""

import contextlib
import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from bmi.drivers import Outcome

_PREFIX = ".draft-"


class Draft:
    """A file in the making, in the folder where it shall appear.

    Its maker holds a lock on it. So `sweep` can tell a draft whose maker died from one that is being written,
    whichever process writes it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path, self.fd = _create(folder)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._path.unlink(missing_ok=True)
        os.close(self.fd)

    def publish(self, name: str, mode: int) -> Outcome:
        """Let the file appear under its name, durably, unless there is one of that name already.

        Args:
            name: Its name in the folder.
            mode: Its permissions.
        """
        self._finish(mode)
        outcome = Outcome.DONE
        try:
            # Not a rename: it would replace a disk that another process made meanwhile and a node writes to.
            os.link(self._path, self._folder / name)
        except FileExistsError:
            outcome = Outcome.ALREADY
        self._path.unlink()
        sync_folder(self._folder)
        return outcome

    def replace(self, name: str, mode: int) -> None:
        """Let the file appear under its name, durably, in the place of one that may be there."""
        self._finish(mode)
        self._path.replace(self._folder / name)
        sync_folder(self._folder)

    def _finish(self, mode: int) -> None:
        os.fchmod(self.fd, mode)
        os.fsync(self.fd)


def sweep(folder: Path) -> None:
    """Remove the drafts in a folder whose makers died."""
    for path in folder.glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:
            if _lock(file.fileno()):
                path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Wait until what was made, renamed and removed in a folder is on the disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create(folder: Path) -> tuple[Path, int]:
    while True:
        path = folder / f"{_PREFIX}{uuid4()}"
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        if _lock(fd) and os.fstat(fd).st_nlink == 1:
            return path, fd
        # A sweep came between the two calls and took it for a dead one's.
        os.close(fd)


def _lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
