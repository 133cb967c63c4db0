"""Files that go to the service and come from it, with a bar for the person who waits."""

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from bmi.cli import output
from bmi.cli.failures import Failure

_CHUNK = 4 << 20  # bytes
_BLOCK = 64 << 10  # bytes; a block of zeros becomes a hole
_ZEROS = bytes(_BLOCK)

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and the bytes in all, if that is known."""


@contextmanager
def bar(what: str) -> Iterator[Progress]:
    """Show how far something is, on the error output, where a person sees it."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
    from rich.progress import TransferSpeedColumn as Speed

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(True), Speed())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task(what, total=None)
        yield lambda done, total: shown.update(task, completed=done, total=total)


def opened(path: Path) -> BinaryIO:
    """Open a file to be sent.

    Raises:
        Failure: It cannot be read.
    """
    try:
        if not path.is_file():
            raise Failure(f"{path} is not a file", next_step="give an image file, a URL, or -")
        return path.open("rb")
    except OSError as error:
        raise Failure(
            f"{path} cannot be read: {error.strerror}", next_step="check its path and mode"
        ) from error


def digest(file: BinaryIO) -> str:
    """Return the digest of a file."""
    sha, done, size = hashlib.sha256(), 0, os.fstat(file.fileno()).st_size
    file.seek(0)
    with bar("digest") as told:
        while chunk := file.read(_CHUNK):
            sha.update(chunk)
            done += len(chunk)
            told(done, size)
    return f"sha256:{sha.hexdigest()}"


class Destination:
    """A file that appears whole or not at all; what is zero in it becomes holes."""

    def __init__(self, path: Path, *, force: bool) -> None:
        """Begin to write beside the place where it shall appear.

        Args:
            path: Where it shall appear.
            force: Whether it may replace one that is there.

        Raises:
            Failure: There is one, or nothing can be written there.
        """
        self._path = path
        self._part = path.with_name(f".{path.name}.part")
        if path.exists() and not force:
            raise Failure(f"{path} exists already", next_step="remove it, or replace it with --force")
        try:
            self._file = self._part.open("wb")
        except OSError as error:
            raise Failure(
                f"{path} cannot be written: {error.strerror}", next_step="give another place"
            ) from error

    def __enter__(self) -> "Destination":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._file.close()
        self._part.unlink(missing_ok=True)

    def write(self, data: bytes) -> None:
        """Append."""
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK]
            if block == _ZEROS[: len(block)]:
                self._file.seek(len(block), os.SEEK_CUR)
            else:
                self._file.write(block)

    def appear(self) -> None:
        """Let the file appear, whole and on the disk."""
        self._file.truncate(self._file.tell())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._part.replace(self._path)
        output.note(f"written to {self._path}")
