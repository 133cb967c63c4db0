"""The kernel's target as a whole: loaded, closed to discovery, and asked without waiting for ever.

Whoever changes it waits in the kernel until it is done, and cannot be interrupted: a session closes only when its
writes have ended, and on storage that does not answer these never end. So it is asked on threads of their own.
"""

import errno
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from rtslib_fb import FabricModule, RTSLibError

from bmi.drivers.target.lio_names import CONFIGFS, ISCSI, TARGET
from bmi.errors import CommandFailed, TargetError
from bmi.run import run

T = TypeVar("T")

_MODULES = ("target_core_mod", "target_core_file", "iscsi_target_mod")

_DATABASE = Path("/etc/target")
"""Where the kernel would keep persistent reservations, which BMI switches off. It looks for the folder when it is
loaded, and rtslib refuses to work without."""

_GONE = {errno.ENOENT, errno.ENODEV}


class Asked:
    """Asks the kernel with a time limit, one question of a portal at a time."""

    def __init__(self, deadline: float) -> None:
        self._deadline = deadline
        self._guard = threading.Lock()
        self._busy: dict[UUID | None, threading.Thread] = {}

    def __call__(self, portal: UUID | None, call: Callable[[], T]) -> T:
        """Call something that may wait in the kernel, and return what it returned.

        Args:
            portal: What it is about; None if it only reads.
            call: What to call, on another thread.

        Raises:
            TargetError: It did not end in time, or the one before has not ended yet.
        """
        results: list[T] = []
        failures: list[BaseException] = []

        def work() -> None:
            try:
                results.append(call())
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work, name=f"lio-{portal}", daemon=True)
        with self._guard:
            before = self._busy.get(portal)
            if portal is not None and before is not None and before.is_alive():
                raise _stuck(portal, self._deadline)
            self._busy[portal] = thread
            thread.start()
        thread.join(self._deadline)
        if thread.is_alive():
            raise _stuck(portal, self._deadline)
        with self._guard:
            if self._busy.get(portal) is thread:
                del self._busy[portal]
        if failures:
            raise failures[0]
        return results[0]


def fabric() -> FabricModule:
    """Return the kernel's iSCSI target, loaded, with discovery closed.

    Raises:
        TargetError: This kernel has none, or BMI is not root.
    """
    if os.geteuid():
        raise TargetError(
            "the kernel's target takes orders from root only",
            next_step="run bmi gateway as root, or take the target driver tgt (docs/lio.md)",
        )
    if not ISCSI.is_dir():
        _load()
    with told("discovery to be closed"):
        module = FabricModule("iscsi")
        if not module.discovery_enable_auth:
            module.discovery_userid = "bmi-discovery"
            module.discovery_password = secrets.token_hex(8)  # nobody knows it: nodes need no discovery
            module.discovery_enable_auth = True
    return module


@contextmanager
def told(what: str) -> Iterator[None]:
    """Turn what the kernel or rtslib complain about into the target's error.

    Args:
        what: What was wanted, as in "discovery to be closed"; stands in the error.
    """
    try:
        yield
    except (RTSLibError, OSError) as error:
        raise TargetError(
            f"the kernel's target does not take {what}: {error}",
            next_step="look into dmesg; other programs that change the kernel's target should be stopped",
        ) from error


@contextmanager
def unless_gone() -> Iterator[None]:
    """Ignore that a thing of configfs went away while it was looked at."""
    try:
        yield
    except OSError as error:
        if error.errno not in _GONE:
            raise


def _load() -> None:
    _DATABASE.mkdir(parents=True, exist_ok=True)
    try:
        run(["modprobe", "-a", "configfs", *_MODULES])
        if not TARGET.is_dir():
            run(["mount", "-t", "configfs", "none", CONFIGFS])
    except CommandFailed as error:
        raise TargetError(
            f"this kernel's iSCSI target cannot be used: {error.message}",
            next_step=f"install a kernel with the modules {', '.join(_MODULES)}, or take the target driver tgt",
        ) from error
    with told("to be used"):
        ISCSI.mkdir(exist_ok=True)


def _stuck(portal: UUID | None, deadline: float) -> TargetError:
    about = "" if portal is None else f" about portal {portal}"
    return TargetError(
        f"the kernel's target has not answered{about} for {deadline:g} s",
        next_step="look into dmesg, and whether the storage of its disks answers; it goes on by itself then",
    )
