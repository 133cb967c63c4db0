"""Storage for tests: plain files that are copied in full, on any file system, without privileges."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ByteSize

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.storage import Kind
from bmi.drivers.storage.files import FileStorage, Room
from bmi.drivers.storage.sparse import copy_data


class MemoryOptions(Options):
    """Options of the driver `memory`."""

    capacity: ByteSize = ByteSize(64 << 30)
    """Bytes that all volumes together may take before the store is full."""


class MemoryStorage(FileStorage):
    """What `local` is, for tests: it keeps the same rules, but a copy is a copy and the room is made up.

    A snapshot of a disk that is being written to is not of one moment.
    """

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(MemoryOptions, options, driver="memory")
        self._home = site.state_dir.absolute() / "storage-memory"

    def prepare(self) -> None:
        """Make the folders, and remove what was left half-made."""
        with self._failures(f"the storage in {self._home} could not be prepared"):
            self._lay_out()

    def dismantle(self) -> None:
        """Do nothing: nothing of the host is touched."""

    @property
    def _root(self) -> Path:
        return self._home

    def _room(self) -> Room:
        total = self._options.capacity
        used = sum(self.usage(info.volume).own for kind in Kind for info in self._listed(kind))
        return Room(self._home, total=total, free=max(0, total - used), reserve=0)

    def _duplicate(self, source: int, destination: int) -> None:
        copy_data(source, destination, lambda offset: None)

    def _share(self, source: int, destination: int) -> None:
        os.ftruncate(destination, os.fstat(source).st_size)
        self._duplicate(source, destination)

    def _shared(self, file: int) -> int:
        return 0

    def _take_in(self, source: int, destination: int) -> bool:
        return False
