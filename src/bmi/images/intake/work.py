"""One file on its way to becoming a raw disk, in a folder of its own.

    source      as it was handed in
    unpacked    without its compression, if it has one
    raw         the disk

Each is made once, appears whole or not at all, and is made again from the one before where it is lost. So whoever
was interrupted asks for what he needs, and gets it.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bmi.api.intake import Format
from bmi.images.intake import compression, convert
from bmi.images.intake.compression import Compression
from bmi.images.intake.digest import Progress
from bmi.images.intake.formats import look
from bmi.images.intake.reader import opened, refuse
from bmi.images.intake.space import part_of

_HEAD = 16  # bytes in which a compression is recognised


@dataclass(frozen=True)
class Found:
    """What a file turned out to be."""

    compression: Compression | None
    format: Format | None
    """None as long as it is compressed."""
    size: int | None
    """Bytes of the disk in it."""

    def __str__(self) -> str:
        if self.format is None or self.size is None:
            return f"compressed with {self.compression}"
        packed = f" in {self.compression}" if self.compression else ""
        return f"{self.format}{packed}, {self.size >> 20} MiB"


class Work:
    """The folder of one file."""

    def __init__(self, folder: Path, *, declared: Format | None, limit: int, bounds: convert.Bounds) -> None:
        """Say what may be done.

        Args:
            folder: The folder; it is made when something is to lie in it.
            declared: The format that the file's owner says it has; it is recognised if None.
            limit: Bytes that the disk in it may have.
            bounds: What unpacking and converting may take.
        """
        self.folder = folder
        self._declared = declared
        self._limit = limit
        self._bounds = bounds
        self._raw = folder / "raw"
        self._unpacked = folder / "unpacked"
        self._source = folder / "source"

    def source(self, get: Callable[[Path], object]) -> Path:
        """Return the file as it was handed in.

        Args:
            get: Brings it to a path, if it is not there; it appears whole or not at all.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._source.exists() and not self._raw.exists():
            get(self._source)
        return self._source

    def look(self) -> Found:
        """Say what the file is, by its header.

        Raises:
            ImageInvalid: It is not an image, or none that may come in.
        """
        with opened(self._source, self._limit) as file:
            how = compression.recognised(file.head(_HEAD))
            if how is not None:
                return Found(how, None, None)
            format, size = look(file, self._declared)
        return Found(None, format, size)

    def disk(self, progress: Progress) -> tuple[Path, Found]:
        """Return the image without its compression, and what it is.

        Raises:
            ImageInvalid: It is damaged, or no image that may come in.
        """
        found = self.look()
        if found.compression is None:
            return self._source, found
        if not self._unpacked.exists():
            self._unpack(found.compression, progress)
        with opened(self._unpacked, self._limit) as file:
            format, size = look(file, self._declared)
        return self._unpacked, Found(found.compression, format, size)

    def raw(self, progress: Progress) -> Path:
        """Return the disk as a raw file; nothing else is kept.

        Raises:
            ImageInvalid: The image cannot be read.
        """
        if not self._raw.exists():
            disk, found = self.disk(lambda done, total: progress(0, total))
            self._convert(disk, found, progress)
        self._unpacked.unlink(missing_ok=True)
        self._source.unlink(missing_ok=True)
        return self._raw

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.folder.exists():
            shutil.rmtree(self.folder)  # to say why not

    def _unpack(self, how: Compression, progress: Progress) -> None:
        part = part_of(self._unpacked)
        file = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        try:
            limit = self._limit + self._limit // 100  # an image is somewhat larger than its disk
            compression.unpack(
                self._source, file, how, limit=limit, room=self._bounds.room, progress=progress
            )
        finally:
            os.close(file)
        part.replace(self._unpacked)

    def _convert(self, disk: Path, found: Found, progress: Progress) -> None:
        part = part_of(self._raw)
        if found.format is Format.RAW:
            os.link(disk, part)
        elif found.format is None or found.size is None:
            refuse("is compressed twice", "unpack it, and hand it in again")
        else:
            disk.chmod(0o644)  # for nobody in the sandbox, whatever the service's umask
            convert.check(disk, found.format, self._bounds)
            convert.to_raw(disk, found.format, found.size, part, self._bounds, progress)
        part.replace(self._raw)
