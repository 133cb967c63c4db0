"""Keeps two callers from one portal, be they threads of one BMI or two of them during a restart."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from bmi.errors import DeadlineExceeded, TargetError
from bmi.wait import wait_until

_DEADLINE = 60.0  # seconds that another call on the same portal may take


class PortalLocks:
    """One lock for each portal's folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._guard = threading.Lock()
        self._threads: dict[UUID, threading.Lock] = {}

    @contextmanager
    def held(self, portal: UUID, *, make: bool = False) -> Iterator[bool]:
        """Hold a portal's lock; yields whether the portal has a folder.

        Args:
            portal: Which.
            make: Make the folder if it is not there.

        Raises:
            TargetError: Another call holds it for too long.
        """
        with self._guard:
            threads = self._threads.setdefault(portal, threading.Lock())
        # Threads queue up here; the lock on the folder is for other processes, and is polled.
        if not threads.acquire(timeout=_DEADLINE):
            raise _busy(portal)
        try:
            descriptor = self._lock_folder(portal, make=make)
            try:
                yield descriptor is not None
            finally:
                if descriptor is not None:
                    os.close(descriptor)
        finally:
            threads.release()

    def forget(self, portal: UUID) -> None:
        """Remove the empty folder of a portal that is gone; call it while the lock is held."""
        (self._folder / str(portal)).rmdir()

    def _lock_folder(self, portal: UUID, *, make: bool) -> int | None:
        folder = self._folder / str(portal)
        try:
            return wait_until(
                lambda: _try_lock(folder, make=make),
                deadline=_DEADLINE,
                what=f"the lock of portal {portal}",
                next_step="try again",
            )[0]
        except DeadlineExceeded as error:
            raise _busy(portal) from error


def _try_lock(folder: Path, *, make: bool) -> tuple[int | None] | None:
    """Lock a folder and return its descriptor, or (None,) if there is no folder, or None if it is held."""
    if make:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return (None,)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Whoever held it before may have removed the folder, and another caller made a new one.
        if os.path.samestat(os.fstat(descriptor), folder.stat()):
            return (descriptor,)
    except (BlockingIOError, FileNotFoundError):
        pass
    os.close(descriptor)
    return None


def _busy(portal: UUID) -> TargetError:
    return TargetError(
        f"another operation on portal {portal} takes longer than {_DEADLINE:g} s", next_step="try again"
    )
