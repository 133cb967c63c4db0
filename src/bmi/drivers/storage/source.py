"""Raw files that are to become images, and the sizes that volumes can have."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmi.drivers.storage import Volume
from bmi.errors import BadRequest, ImageInvalid

SECTOR = 512  # bytes; what a node addresses a disk in


@contextmanager
def opened_source(path: Path) -> Iterator[int]:
    """Open a file that is to become an image.

    Raises:
        ImageInvalid: It cannot be read, is no plain file, or has not the size of a disk.
    """
    try:
        # Not blocking: opening a FIFO would wait for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageInvalid(
            f"{path} cannot be read: {error.strerror}", next_step="give a raw file that the service can read"
        ) from error
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ImageInvalid(f"{path} is not a plain file", next_step="give a raw disk image")
        require_size(str(path), status.st_size)
        yield fd
    finally:
        os.close(fd)


def require_size(name: str, size: int) -> None:
    """Refuse a content that has not the size of a disk.

    Args:
        name: What it is called, for people.
        size: Its bytes.

    Raises:
        ImageInvalid: It is empty, or not made of whole sectors.
    """
    if size == 0 or size % SECTOR:
        raise ImageInvalid(
            f"{name} has {size} bytes, which no disk has",
            next_step=f"give a raw disk image, whose size is a multiple of {SECTOR} bytes",
        )


def require_growth(volume: Volume, before: int, size: int) -> None:
    """Refuse to make a volume smaller, or not of whole sectors.

    Raises:
        BadRequest: That was asked for.
    """
    if size < before or size % SECTOR:
        raise BadRequest(
            f"{volume} cannot have {size} bytes: it has {before}",
            next_step=f"ask for at least that much, in multiples of {SECTOR}; a disk never becomes smaller",
        )
