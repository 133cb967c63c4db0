"""Moves whole contents between files and RBD images; what is zero is neither sent nor stored."""

import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.sparse import data_ranges

_CHUNK = 4 << 20  # bytes; one object of an image
_GRAIN = 64 << 10  # bytes; a smaller hole is not worth a request of its own
_IN_FLIGHT = 8  # chunks that are under way at once
_ZEROS = bytes(_GRAIN)

Told = Callable[[int], None]
"""Called with the offset that is reached."""


def fill(image: Any, source: int, told: Told) -> None:
    """Write a file's data into an empty image of the same size, and wait until it is stored.

    Args:
        image: The image, open for writing.
        source: Descriptor of the file.
        told: Called after each chunk; what it raises ends the copy.

    Raises:
        EOFError: The source became shorter meanwhile.
        rbd.Error: Writing failed.
    """
    with _Writes(image) as writes:
        for start, end in data_ranges(source):
            for offset, length in _chunks(start, end):
                data = os.pread(source, length, offset)
                if len(data) < length:
                    raise EOFError(f"ends at byte {offset + len(data)} instead of {end}")
                for at, piece in pieces(data):
                    writes.write(piece, offset + at)
                told(offset + length)
    image.flush()


def drain(image: Any, destination: int, told: Told) -> None:
    """Write an image's data into an empty file of the same size.

    Args:
        image: The open image.
        destination: Descriptor of the file.
        told: Called after each chunk; what it raises ends the copy.
    """
    extents: list[tuple[int, int]] = []
    size = image.size()

    def found(offset: int, length: int, exists: bool) -> None:
        if exists:
            extents.append((offset, min(offset + length, size)))

    image.diff_iterate(0, size, None, found, include_parent=True, whole_object=True)
    for start, end in extents:
        for offset, length in _chunks(start, end):
            for at, piece in pieces(image.read(offset, length)):
                view = memoryview(piece)
                while view:
                    count = os.pwrite(destination, view, offset + at)
                    view, at = view[count:], at + count
            told(offset + length)


def pieces(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of a content that are not zero, each with where it begins."""
    begin: int | None = None
    for offset in range(0, len(data), _GRAIN):
        block = data[offset : offset + _GRAIN]
        if block == _ZEROS[: len(block)]:
            if begin is not None:
                yield begin, data[begin:offset]
            begin = None
        elif begin is None:
            begin = offset
    if begin is not None:
        yield begin, data[begin:]


def _chunks(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range where objects end, and yield where each part begins and how long it is."""
    while start < end:
        stop = min(end, (start // _CHUNK + 1) * _CHUNK)
        yield start, stop - start
        start = stop


class _Writes:
    """Writes that are under way side by side; all have ended when the context has."""

    def __init__(self, image: Any) -> None:
        self._image = image
        self._slots = threading.Semaphore(_IN_FLIGHT)
        self._failure: int | None = None

    def __enter__(self) -> "_Writes":
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for _ in range(_IN_FLIGHT):
            self._slots.acquire()
        if error is None:
            self._raise_failure()

    def write(self, data: bytes, offset: int) -> None:
        """Begin to write, when one of those before has ended."""
        self._slots.acquire()

        def ended(completion: Any, kept: bytes = data) -> None:
            status = completion.get_return_value()
            if status < 0:
                self._failure = -status
            self._slots.release()

        try:
            self._raise_failure()
            self._image.aio_write(data, offset, ended)
        except BaseException:
            self._slots.release()
            raise

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise rbd.OSError("a write failed", errno=self._failure)
