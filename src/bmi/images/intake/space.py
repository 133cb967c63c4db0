"""Files that are written on the way in: with holes where there are zeros, and never more than there is room."""

import os
from pathlib import Path

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
        done = 0
        while done < len(piece):
            done += os.pwrite(self._file, piece[done:], self.size + done)
