"""Where a file's blocks lie, and which of them other files have too."""

import fcntl
import struct
from collections.abc import Iterator

_FIEMAP = 0xC020660B  # _IOWR('f', 11, struct fiemap) in linux/fs.h
_HEADER = struct.Struct("=QQIIII")  # start, length, flags, mapped, count, reserved; linux/fiemap.h
_EXTENT = struct.Struct("=QQQQQIIII")  # logical, physical, length, two reserved, flags, three reserved
_COUNT = 512  # extents that one call returns
_LAST = 0x1
_SHARED = 0x2000
_SYNC = 0x1  # write out first what has no place yet
_END = (1 << 64) - 1


def shared_bytes(file: int) -> int:
    """Return how many bytes of a file lie in blocks that other files have too.

    Args:
        file: Its descriptor, on a file system that can tell: XFS, btrfs.

    Raises:
        OSError: The file system cannot tell.
    """
    return sum(length for length, flags in _extents(file) if flags & _SHARED)


def _extents(file: int) -> Iterator[tuple[int, int]]:
    """Yield the length and the flags of each extent."""
    start = 0
    while True:
        request = bytearray(_HEADER.size + _COUNT * _EXTENT.size)
        _HEADER.pack_into(request, 0, start, _END - start, _SYNC, 0, _COUNT, 0)
        fcntl.ioctl(file, _FIEMAP, request)
        mapped = _HEADER.unpack_from(request)[3]
        flags = _LAST
        for index in range(mapped):
            logical, _, length, _, _, flags, *_ = _EXTENT.unpack_from(
                request, _HEADER.size + index * _EXTENT.size
            )
            start = logical + length
            yield length, flags
        if flags & _LAST:
            return
