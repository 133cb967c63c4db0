"""Reflinks: two files that share their blocks until one of them is written to."""

import contextlib
import errno
import fcntl
import os
import tempfile
from pathlib import Path

_FICLONE = 0x40049409  # _IOW(0x94, 9, int) in linux/fs.h; ioctl_ficlone(2)

_CANNOT = frozenset({errno.EOPNOTSUPP, errno.ENOTTY, errno.ENOSYS, errno.EXDEV, errno.EINVAL})
"""What the kernel answers where the two files cannot share blocks, ioctl_ficlone(2)."""


def reflink(source: int, destination: int) -> None:
    """Make one file share all the blocks of another.

    The content is that of one moment: the kernel holds writers to the source back meanwhile, and first writes
    out what lies in the page cache, whoever put it there (generic_remap_file_range_prep, fs/remap_range.c).

    Args:
        source: Descriptor of the file to read.
        destination: Descriptor of an empty file, open for writing.

    Raises:
        OSError: The file system cannot, or has no room.
    """
    fcntl.ioctl(destination, _FICLONE, source)


def try_reflink(source: int, destination: int) -> bool:
    """Do as `reflink` does if these two files can share blocks, and say whether they can."""
    try:
        reflink(source, destination)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def supports_reflink(folder: Path) -> bool:
    """Say whether files in a folder can share blocks, by trying."""
    with tempfile.TemporaryFile(dir=folder) as source, tempfile.TemporaryFile(dir=folder) as destination:
        # A full file system must still be recognised; there the empty file has to do.
        with contextlib.suppress(OSError):
            os.write(source.fileno(), bytes(4096))
        return try_reflink(source.fileno(), destination.fileno())
