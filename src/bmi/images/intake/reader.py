"""Reads parts of a file that somebody else made, never beyond its end."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from bmi.errors import ImageInvalid

SECTOR = 512  # bytes


def refuse(reason: str, next_step: str) -> NoReturn:
    """Refuse the file.

    Args:
        reason: What is wrong, as what follows on "the file".
        next_step: What to do about it.

    Raises:
        ImageInvalid: Always.
    """
    raise ImageInvalid(f"the file {reason}", next_step=next_step)


class Reader:
    """A file that is open for reading."""

    def __init__(self, file: int, limit: int) -> None:
        """Look at a file.

        Args:
            file: Its descriptor.
            limit: Bytes that the disk in it may have.
        """
        self._file = file
        self.size = os.fstat(file).st_size
        self.limit = limit

    def read(self, offset: int, count: int, what: str) -> bytes:
        """Return bytes of the file.

        Args:
            offset: Where they begin.
            count: How many. The caller has made sure that it is no absurd number.
            what: What they are, for people.

        Raises:
            ImageInvalid: The file ends before.
        """
        self.require(offset, count, what)
        found = os.pread(self._file, count, offset)
        if len(found) != count:
            refuse(f"ends in the middle of its {what}", "copy it again, whole")
        return found

    def head(self, count: int) -> bytes:
        """Return the first bytes; fewer where the file has not so many."""
        return os.pread(self._file, count, 0)

    def tail(self, count: int) -> bytes:
        """Return the last bytes; fewer where the file has not so many."""
        return os.pread(self._file, count, max(0, self.size - count))

    def require(self, offset: int, count: int, what: str) -> None:
        """Refuse the file if something lies beyond its end.

        Raises:
            ImageInvalid: It does.
        """
        if offset + count > self.size:
            refuse(
                f"has {self.size} bytes, and its {what} would end at byte {offset + count}: "
                "it is truncated, or its header lies",
                "copy it again, whole, or convert it anew",
            )

    def disk_size(self, size: int) -> int:
        """Return the size of the disk in the file, if a disk can have it.

        Raises:
            ImageInvalid: It is nothing, more than is allowed, or no whole number of sectors.
        """
        if size == 0:
            refuse("holds a disk of 0 bytes", "give an image of a disk with something on it")
        if size > self.limit:
            refuse(
                f"holds a disk of {size} bytes, and {self.limit} are allowed",
                "make the disk smaller, or ask the admin to raise intake.max_size",
            )
        if size % SECTOR:
            refuse(
                f"holds a disk of {size} bytes, which is no multiple of {SECTOR}",
                f"pad it to whole sectors of {SECTOR} bytes",
            )
        return size


@contextmanager
def opened(path: Path, limit: int) -> Iterator[Reader]:
    """Open a file of the spool.

    Args:
        path: The file. No link is followed.
        limit: Bytes that the disk in it may have.
    """
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        yield Reader(file, limit)
    finally:
        os.close(file)
