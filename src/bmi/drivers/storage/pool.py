"""A pool for reflinks on a file system that has none: XFS in a sparse file, on a loop device.

The file appears formatted or not at all. So a pool is in one of four states, and each step leads from one
to the next: no file, file, file attached to a loop device, mounted. A crash leaves it in one of them.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bmi.drivers.storage.draft import sync_folder
from bmi.errors import CommandFailed, InUse, StorageError
from bmi.run import run
from bmi.wait import wait_until

MIN_SIZE = 300 << 20  # bytes; mkfs.xfs refuses less since xfsprogs 5.19

_GRAIN = 1 << 20  # bytes; a whole number of blocks and sectors of whatever size
_LOCK_DEADLINE = 60.0  # seconds; another process that makes the same pool needs well under one
_DETACH_DEADLINE = 5.0  # seconds; a scanner such as udev's may still look at the device


class LoopPool:
    """XFS in a sparse file.

    The mount is made in the mount namespace of the caller. Where several of them prepare the same pool, they
    share one loop device, hence one file system.
    """

    def __init__(self, folder: Path) -> None:
        """Name the pool of a folder.

        Args:
            folder: Where the pool's file lies and its mount point is.
        """
        self.file = folder / "pool.xfs"
        self.mountpoint = folder / "pool"
        self._folder = folder

    def exists(self) -> bool:
        """Say whether the pool was made before."""
        return self.file.exists()

    def up(self, size: int) -> None:
        """Mount the pool, and make it first if there is none.

        Args:
            size: Bytes of a pool that has to be made.

        Raises:
            StorageError: A program failed, or something else is mounted there.
        """
        with self._alone(), _programs(f"the storage pool {self.file} could not be mounted"):
            if not self.exists():
                self._make(size)
            device = next(iter(self._devices()), None) or self._attach()
            self.mountpoint.mkdir(mode=0o700, exist_ok=True)
            if not self.mountpoint.is_mount():
                # noatime: reading need not write. discard: what is removed becomes a hole of the file again.
                options = "noatime,nodev,nosuid,noexec,discard"
                run(["mount", "-t", "xfs", "-o", options, device, self.mountpoint])
            elif not self._is_ours(device):
                raise StorageError(
                    f"something else than the storage pool {self.file} is mounted on {self.mountpoint}",
                    next_step="unmount it and start the service again",
                )

    def down(self) -> None:
        """Unmount the pool and let go of its loop device. What is stored stays.

        Raises:
            InUse: Files of the pool are open.
            StorageError: A program failed.
            DeadlineExceeded: Another mount namespace has the pool mounted.
        """
        if not self.exists():
            return
        with self._alone(), _programs(f"the storage pool {self.file} could not be unmounted"):
            for device in self._devices():
                if self.mountpoint.is_mount() and self._is_ours(device):
                    self._unmount()
                self._detach(device)

    def _make(self, size: int) -> None:
        part = self.file.with_suffix(".part")
        part.unlink(missing_ok=True)
        with part.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            os.truncate(file.fileno(), size - size % _GRAIN)
        # The loop device takes over the sectors of the disk beneath; 4096 bytes suit every disk.
        run(["mkfs.xfs", "-q", "-K", "-m", "reflink=1", "-s", "size=4096", part])
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(self.file)
        sync_folder(self._folder)

    def _attach(self) -> str:
        return run(["losetup", "--find", "--show", "--direct-io=on", self.file]).strip()

    def _devices(self) -> list[str]:
        listed = run(["losetup", "--associated", self.file, "--noheadings", "--output", "NAME"])
        return listed.split()

    def _is_ours(self, device: str) -> bool:
        return self.mountpoint.stat().st_dev == Path(device).stat().st_rdev

    def _unmount(self) -> None:
        try:
            run(["umount", self.mountpoint], env={"LC_ALL": "C"})
        except CommandFailed as error:
            if "busy" not in error.message:
                raise
            raise InUse(
                f"files of the storage pool {self.mountpoint} are open",
                next_step="end the exports of its disks first",
            ) from error

    def _detach(self, device: str) -> None:
        try:
            run(["losetup", "--detach", device])
        except CommandFailed:
            if device in self._devices():
                raise
        wait_until(
            lambda: device not in self._devices(),
            deadline=_DETACH_DEADLINE,
            what=f"{device} to let go of {self.file}",
            next_step="end the processes in other mount namespaces that use it, then it goes by itself",
        )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep the other processes that would mount or unmount the same pool away."""
        fd = os.open(self._folder / ".pool.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)

        def locked() -> bool:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        try:
            wait_until(
                locked,
                deadline=_LOCK_DEADLINE,
                what=f"another process to be done with the storage pool {self.file}",
                next_step="see which process holds .pool.lock beside it (lslocks) and why it hangs",
            )
            yield
        finally:
            os.close(fd)


@contextmanager
def _programs(failure: str) -> Iterator[None]:
    try:
        yield
    except CommandFailed as error:
        raise StorageError(f"{failure}: {error.message}", next_step=error.next_step) from error
