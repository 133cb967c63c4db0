"""Files that are written on the way in: with holes where there are zeros, and never more than there is room."""

import errno
import os
from pathlib import Path
from uuid import uuid4

from bmi.errors import StorageFull

_BLOCK = 64 << 10  # bytes; a block of zeros becomes a hole
_ZEROS = bytes(_BLOCK)
_LOOK = 64 << 20  # bytes between two looks at the room


class Room:
    """The file system that the spool is on, of which something stays free."""

    def __init__(self, folder: Path, reserve: int) -> None:
        """Say what stays free.

        Args:
            folder: A folder on it.
            reserve: Bytes that others need.
        """
        self._folder = folder
        self._reserve = reserve

    def require(self, needed: int = 0) -> None:
        """Stop if it has become too full.

        Args:
            needed: Bytes that are about to be written.

        Raises:
            StorageFull: It has.
        """
        status = os.statvfs(self._folder)
        free = status.f_bavail * status.f_frsize
        if free < self._reserve + needed:
            raise StorageFull(
                f"the spool {self._folder} has {free} bytes free, {self._reserve + needed} are needed",
                next_step="make room there, or move it with the setting intake.spool",
            )


def write_at(file: int, data: bytes | memoryview, offset: int) -> None:
    """Write everything at a place of a file.

    Raises:
        StorageFull: There is no room for it.
    """
    view = memoryview(data)
    try:
        while view:
            count = os.pwrite(file, view, offset)
            view, offset = view[count:], offset + count
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageFull(
            "the spool has no room left",
            next_step="make room there, or move it with the setting intake.spool",
        ) from error


def part_of(path: Path) -> Path:
    """Return where a file is made that is to appear at a path. What others began there is removed.

    A maker that was taken for dead may still be at it. It has a name of its own, so it cannot let appear what
    another one has not finished.
    """
    for left in path.parent.glob(f"{path.name}.*.part"):
        left.unlink(missing_ok=True)
    return path.with_name(f"{path.name}.{uuid4()}.part")


class SparseWriter:
    """Writes a file from its beginning to its end."""

    def __init__(self, file: int, room: Room) -> None:
        """Begin.

        Args:
            file: Descriptor of an empty file.
            room: What is looked at while it grows.
        """
        self._file = file
        self._room = room
        self._unseen = 0
        self.size = 0
        """Bytes until now, those in holes too."""

    def write(self, data: bytes) -> None:
        """Append."""
        view = memoryview(data)
        while view:
            count = min(len(view), _BLOCK - self.size % _BLOCK)
            piece = view[:count]
            if piece != _ZEROS[:count]:
                self._put(piece)
            self.size += count
            view = view[count:]

    def finish(self) -> None:
        """End the file, so that it outlives a power cut."""
        os.ftruncate(self._file, self.size)
        os.fsync(self._file)

    def _put(self, piece: memoryview) -> None:
        self._unseen += len(piece)
        if self._unseen >= _LOOK:
            os.fdatasync(self._file)  # until then file systems do not tell what is left
            self._room.require()
            self._unseen = 0
        write_at(self._file, piece, self.size)
