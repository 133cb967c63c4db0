"""Storage on this host: raw files whose copies share their blocks (reflinks), on XFS or btrfs.

Where the folder's file system has no reflinks, a pool with XFS on a loop device is made beneath it.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ByteSize, field_validator

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.storage import Kind
from bmi.drivers.storage.extents import shared_bytes
from bmi.drivers.storage.files import ADOPT, FileStorage, Room
from bmi.drivers.storage.pool import MIN_SIZE, LoopPool
from bmi.drivers.storage.reflink import reflink, supports_reflink, try_reflink
from bmi.errors import ImageInvalid, StorageError, StorageFull

_POOL_SIZE = 200 * 10**9  # bytes; sparse, so it costs nothing until it is used
_RESERVE = 256 << 20  # bytes
_RESERVE_SHARE = 20  # at most this part (a twentieth) of a small store


class LocalOptions(Options):
    """Options of the driver `local`."""

    path: Path | None = None
    """Folder of the store; `storage` in the state folder if None."""
    pool_size: ByteSize | None = None
    """Bytes of the pool, as in "200GB" or "200GiB", should one have to be made.

    If None 200 GB, or what is free in the folder if that is less. 0 forbids a pool: then the folder itself
    must have reflinks, and a file system that was not mounted is an error and not an empty store.
    """
    reserve: ByteSize | None = None
    """Bytes that stay free; 256 MiB if None, in a small store a twentieth of it."""

    @field_validator("pool_size")
    @classmethod
    def _large_enough(cls, size: ByteSize | None) -> ByteSize | None:
        if size is not None and 0 < size < MIN_SIZE:
            raise ValueError(f"a pool has at least {MIN_SIZE} bytes")
        return size


class LocalStorage(FileStorage):
    """Images, disks and seeds as raw files that share their blocks."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(LocalOptions, options, driver="local")
        self._home = (self._options.path or site.state_dir / "storage").absolute()
        self._pool = LoopPool(self._home)
        self._prepared: Path | None = None

    def prepare(self) -> None:
        """Find where reflinks work, mount the pool if it takes one, and remove what was left half-made."""
        with self._failures(f"the storage in {self._home} could not be prepared"):
            self.mount()
            self._lay_out()

    def mount(self) -> Path:
        """Do the part of `prepare` that may take root's rights, and return the folder that holds the store.

        Raises:
            StorageError: The folder's file system has no reflinks, and no pool can be mounted.
        """
        with self._failures(f"the storage in {self._home} could not be mounted"):
            self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._needs_pool():
                self._prepare_pool()
                self._prepared = self._pool.mountpoint
            else:
                self._prepared = self._home
            return self._prepared

    def dismantle(self) -> None:
        """Unmount the pool, if there is one."""
        with self._failures(f"the storage in {self._home} could not be dismantled"):
            self._pool.down()
            self._prepared = None

    @property
    def _root(self) -> Path:
        if self._prepared is None:
            raise StorageError(
                f"the storage in {self._home} is not prepared",
                next_step="prepare the driver before it is used",
            )
        return self._prepared

    def _needs_pool(self) -> bool:
        # Decided once and for all: trying takes room, and a full store must be able to start.
        if self._pool.exists() or (self._home / Kind.IMAGE).is_dir():
            return self._pool.exists()
        return not supports_reflink(self._home)

    def _prepare_pool(self) -> None:
        if self._options.pool_size == 0:
            raise StorageError(
                f"the file system of {self._home} has no reflinks, and a pool is forbidden (pool_size = 0)",
                next_step="mount XFS or btrfs there, or allow a pool",
            )
        if os.geteuid() == 0:
            self._pool.up(self._options.pool_size or self._default_pool_size())
        elif not self._pool.mountpoint.is_mount():
            raise StorageError(
                f"the file system of {self._home} has no reflinks, and only root can mount a pool there",
                next_step="mount XFS or btrfs there, and let it belong to the user that BMI runs as",
            )

    def _default_pool_size(self) -> int:
        free = _free(os.statvfs(self._home))
        if free < MIN_SIZE and not self._pool.exists():
            raise StorageFull(
                f"{self._home} has {free} bytes free, a storage pool takes at least {MIN_SIZE}",
                next_step="make room there, or set the storage's path to a larger file system",
            )
        return min(_POOL_SIZE, free)

    def _room(self) -> Room:
        # When preparing fails, the folder's own file system is the one that is full.
        root = self._prepared or self._home
        inner = os.statvfs(root)
        total, free, path = inner.f_blocks * inner.f_frsize, _free(inner), root
        outer = os.statvfs(self._home)
        if _free(outer) < free:
            # The pool is sparse: it can be less full than the file system that it lies on.
            total, free, path = total - free + _free(outer), _free(outer), self._home
        reserve = (
            min(_RESERVE, total // _RESERVE_SHARE) if self._options.reserve is None else self._options.reserve
        )
        return Room(path, total=total, free=max(0, free - reserve), reserve=reserve)

    def _duplicate(self, source: int, destination: int) -> None:
        # reflink writes out the page cache too, but holds the node's writes back as long as that takes.
        os.fdatasync(source)
        reflink(source, destination)

    def _share(self, source: int, destination: int) -> None:
        if not try_reflink(source, destination):
            raise ImageInvalid(
                f"a file in {self._root / ADOPT} lies on another file system than the store",
                next_step="copy it into that folder itself, not a link or a mount",
            )

    def _shared(self, file: int) -> int:
        return shared_bytes(file)

    def _take_in(self, source: int, destination: int) -> bool:
        return try_reflink(source, destination)


def _free(status: os.statvfs_result) -> int:
    return status.f_bavail * status.f_frsize
