"""Copies of sparse files that stay sparse."""

import errno
import os
from collections.abc import Callable, Iterator

CHUNK = 16 << 20  # bytes between two reports; a fraction of a second on any disk


def data_ranges(file: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data, as (first byte, byte after the last); what lies between are holes."""
    end = 0
    while True:
        try:
            start = os.lseek(file, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no data after this place, lseek(2)
                return
            raise
        end = os.lseek(file, start, os.SEEK_HOLE)
        yield start, end


def copy_data(source: int, destination: int, copied: Callable[[int], None]) -> None:
    """Copy one file's data into another, empty one of the same size.

    Args:
        source: Descriptor of the file to read.
        destination: Descriptor of the file to write.
        copied: Called after each chunk with the offset that is reached.

    Raises:
        EOFError: The source became shorter meanwhile.
        OSError: Reading or writing failed.
    """
    buffer = memoryview(bytearray(CHUNK))
    for start, end in data_ranges(source):
        offset = start
        while offset < end:
            count = os.preadv(source, [buffer[: end - offset]], offset)
            if count == 0:
                raise EOFError(f"ends at byte {offset} instead of {end}")
            _write(destination, buffer[:count], offset)
            offset += count
            copied(offset)


def _write(file: int, data: memoryview, offset: int) -> None:
    while data:
        count = os.pwrite(file, data, offset)
        data, offset = data[count:], offset + count
