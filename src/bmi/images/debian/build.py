"""Golden images of Debian, built from packages and kept in a cache."""

import contextlib
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

from bmi.images.debian import disk, rootfs
from bmi.images.debian.recipe import Recipe
from bmi.wait import wait_until

_LOCK_DEADLINE = 1800.0  # seconds; longer than any build that may hold the lock
_LOCK_POLL = 0.2  # seconds

_ASSEMBLING = 0.95  # fraction of the time that has gone when the root file system is there


def build(
    recipe: Recipe, *, cache: Path, progress: Callable[[str, float], None], helper: Path | None = None
) -> Path:
    """Make a golden image, or return the one that was made before from the same recipe.

    It may be killed at any instruction and called again. Callers of the same recipe wait for the first one.

    Args:
        recipe: What goes in.
        cache: Folder that keeps the images; not shared with anything else.
        progress: Told what is going on, and the fraction of the work that is done (0 to 1). What it raises
            ends the build.
        helper: Socket of the helper, for a process that is not root and can gain no rights.

    Returns:
        A raw disk image, sparse. Do not write to it.

    Raises:
        CommandFailed: A tool is not installed, or a package cannot be had.
        CommandTimedOut: The packages did not come in time.
        DeadlineExceeded: Another build of the same recipe takes for ever.
    """
    cache.mkdir(parents=True, exist_ok=True)
    name = f"debian-{recipe.suite}-{digest(recipe)}"
    image = cache / f"{name}.raw"
    if not image.exists():
        with _alone(cache / f".{name}.lock", progress):
            if not image.exists():
                _build(recipe, image, progress, helper)
    progress("done", 1.0)
    return image


def digest(recipe: Recipe) -> str:
    """Return 16 hexadecimal digits that name what `build` makes: they change with the recipe and the code."""
    sums = hashlib.sha256(recipe.model_dump_json().encode())
    top = Path(__file__).parent
    for file in sorted(path for path in top.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        content = file.read_bytes()
        sums.update(f"\n{file.relative_to(top)} {len(content)}\n".encode() + content)
    return sums.hexdigest()[:16]


def _build(recipe: Recipe, image: Path, progress: Callable[[str, float], None], helper: Path | None) -> None:
    _sweep(image.parent, own=image.stem)
    work = Path(tempfile.mkdtemp(prefix=f".{image.stem}.", suffix=".work", dir=image.parent))
    try:
        work.chmod(0o755)  # apt drops its privileges and still has to read here
        root, as_root = rootfs.make(recipe, work, progress, helper)
        progress("assembling the disk", _ASSEMBLING)
        part = work / "disk.raw"
        disk.assemble(root, part, size=recipe.size, label=recipe.label, as_root=as_root)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(image)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _sweep(cache: Path, *, own: str) -> None:
    """Remove what killed builds left: of the image whose lock is held, and of those whose lock nobody holds."""
    for left in cache.glob(".debian-*.work"):
        name = left.name.rsplit(".", 2)[0].lstrip(".")
        with (cache / f".{name}.lock").open("w") as lock:
            if name == own or _take(lock):
                shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def _alone(path: Path, progress: Callable[[str, float], None]) -> Iterator[None]:
    """Hold a lock; a process that is killed lets go of it."""
    with path.open("w") as lock:
        if not _take(lock):
            progress("waiting for another build of the same image", 0.0)
            wait_until(
                lambda: _take(lock),
                deadline=_LOCK_DEADLINE,
                what=f"another build that holds {path}",
                next_step="end the process that builds, if it hangs",
                poll=_LOCK_POLL,
            )
        yield


def _take(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
