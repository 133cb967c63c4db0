"""Golden images of Debian, built from packages and kept in a cache."""

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from bmi.images.debian import disk, rootfs
from bmi.images.debian.recipe import Recipe
from bmi.wait import wait_until

_LOCK_DEADLINE = 1800.0  # seconds; longer than any build that may hold the lock
_LOCK_POLL = 0.2  # seconds

_ASSEMBLING = 0.97  # fraction of the work that is done when the root file system is there


def build(recipe: Recipe, *, cache: Path, progress: Callable[[str, float], None]) -> Path:
    """Make a golden image, or return the one that was made before from the same recipe.

    It may be killed at any instruction and called again. Callers of the same recipe wait for the first one.

    Args:
        recipe: What goes in.
        cache: Folder that keeps the images; not shared with anything else.
        progress: Told what is going on, and the fraction of the work that is done (0 to 1).

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
        progress("waiting for another build of the same image", 0.0)
        with _locked(cache / f"{name}.lock"):
            if not image.exists():
                _build(recipe, image, cache / f"{name}.work", progress)
    progress("done", 1.0)
    return image


def digest(recipe: Recipe) -> str:
    """Return 16 hexadecimal digits that name what `build` makes: they change with the recipe and the code."""
    sums = hashlib.sha256(recipe.model_dump_json().encode())
    top = Path(__file__).parent
    for file in sorted(path for path in top.rglob("*") if path.is_file() and path.suffix != ".pyc"):
        content = file.read_bytes()
        sums.update(f"{file.relative_to(top)} {os.access(file, os.X_OK)} {len(content)}\n".encode() + content)
    return sums.hexdigest()[:16]


def _build(recipe: Recipe, image: Path, work: Path, progress: Callable[[str, float], None]) -> None:
    shutil.rmtree(work, ignore_errors=True)  # what a killed build left
    work.mkdir(mode=0o755)
    try:
        root, as_root = rootfs.make(recipe, work, progress)
        progress("assembling the disk", _ASSEMBLING)
        part = work / "disk.raw"
        disk.assemble(root, part, size=recipe.size, label=recipe.label, as_root=as_root)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        part.rename(image)
    finally:
        shutil.rmtree(work)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:

        def taken() -> bool:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        wait_until(
            taken,
            deadline=_LOCK_DEADLINE,
            what=f"another build of {path.stem}",
            next_step="look at the process that holds the lock file, and end it if it hangs",
            poll=_LOCK_POLL,
        )
        yield
