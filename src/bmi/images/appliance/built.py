"""The appliance itself: a kernel and a small root file system, made once from the host's own packages."""

import fcntl
import hashlib
import shutil
import time
from pathlib import Path

from bmi.errors import ApplianceUnavailable, CommandFailed
from bmi.run import run
from bmi.wait import wait_until

PACKAGES = "libguestfs0 python3-guestfs supermin linux-image-cloud-amd64 bubblewrap zstd"
"""Debian packages that it is made from, or that start it."""

_PARTS = Path("/usr/lib/x86_64-linux-gnu/guestfs/supermin.d")
_TIMEOUT = 300.0  # seconds; it takes two to five, and a disk may be slow
_POLL = 0.1  # seconds
_DAY = 86400.0  # seconds
_WHOLE = "README.fixed"
"""The file by which libguestfs knows a fixed appliance; made last."""


def built(cache: Path) -> Path:
    """Make the appliance, or return the one that was made before and is not older than the host's packages.

    Args:
        cache: Folder that keeps it; not shared with anything else.

    Returns:
        A folder with `kernel`, `initrd` and `root`, as libguestfs calls a fixed appliance.

    Raises:
        ApplianceUnavailable: A package is missing.
        DeadlineExceeded: Another process makes it for ever.
    """
    _check_host()
    top = cache / "appliance"
    top.mkdir(parents=True, exist_ok=True)
    folder = top / _host_state()
    if (folder / _WHOLE).exists():
        return folder
    with (top / ".lock").open("w") as lock:
        wait_until(
            lambda: _take(lock.fileno()),
            deadline=_TIMEOUT,
            what=f"another process that makes {folder}",
            next_step="end it, if it hangs",
            poll=_POLL,
        )
        if not (folder / _WHOLE).exists():
            _make(folder)
            _sweep(top, folder)
    return folder


def _host_state() -> str:
    """Return a word that changes when packages of the host do."""
    status = Path("/var/lib/dpkg/status").stat()
    kernels = sorted(str(kernel) for kernel in Path("/boot").glob("vmlinuz-*"))
    return hashlib.sha256(f"{status.st_mtime_ns} {status.st_size} {kernels}".encode()).hexdigest()[:16]


def _sweep(top: Path, newest: Path) -> None:
    """Remove what was made from packages of before; whoever works with it has done so for a day at the most."""
    for folder in top.iterdir():
        if folder.is_dir() and folder != newest and time.time() - folder.stat().st_mtime > _DAY:
            shutil.rmtree(folder, ignore_errors=True)


def _check_host() -> None:
    """Look for what is needed.

    Raises:
        ApplianceUnavailable: Something is missing; the error names the package.
    """
    kernels = [kernel for kernel in Path("/boot").glob("vmlinuz-*") if _modules(kernel).is_dir()]
    needed = (
        (bool(kernels), "the appliance needs a Linux kernel of the host", "linux-image-cloud-amd64"),
        (_PARTS.is_dir(), "libguestfs is not installed", "libguestfs0"),
        (Path("/usr/bin/supermin").exists(), "supermin is not installed", "supermin"),
        (Path("/usr/lib/python3/dist-packages/guestfs.py").exists(), "libguestfs has no Python binding",
         "python3-guestfs"),
        (Path("/usr/bin/bwrap").exists(), "bubblewrap is not installed", "bubblewrap"),
        (Path("/usr/bin/qemu-storage-daemon").exists(), "qemu-storage-daemon is not installed",
         "qemu-system-common"),
    )  # fmt: skip
    for there, what, package in needed:
        if not there:
            raise ApplianceUnavailable(
                f"images cannot be looked into: {what}", next_step=f"install the Debian package {package}"
            )


def _modules(kernel: Path) -> Path:
    return Path("/lib/modules") / kernel.name.removeprefix("vmlinuz-")


def _make(folder: Path) -> None:
    # Not --if-newer: with a copied kernel, which keeps its date, that makes it anew each time.
    words: list[str | Path] = ["supermin", "--build", "--copy-kernel", "-f", "ext2"]
    try:
        run([*words, "--host-cpu", "x86_64", _PARTS, "-o", folder], timeout=_TIMEOUT)
    except CommandFailed as error:
        raise ApplianceUnavailable(
            f"the appliance cannot be made: {error.message}",
            next_step=f"check that these Debian packages are whole: {PACKAGES}",
        ) from error
    for file in folder.iterdir():
        file.chmod(0o644)  # the sandbox has no rights of its own
    folder.chmod(0o755)
    (folder / _WHOLE).touch()


def _take(file: int) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
