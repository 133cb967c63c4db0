"""Digests of files, as `sha256:` and 64 hexadecimal digits."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from bmi.errors import ImageInvalid

PREFIX = "sha256:"
_CHUNK = 4 << 20  # bytes

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all. What it raises ends the work."""


def digest(path: Path, progress: Progress) -> str:
    """Return the digest of a file."""
    sha, buffer, done = hashlib.sha256(), memoryview(bytearray(_CHUNK)), 0
    with path.open("rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        while count := file.readinto(buffer):
            sha.update(buffer[:count])
            done += count
            progress(done, max(done, size))
    return PREFIX + sha.hexdigest()


def require(found: str, wanted: str | None) -> None:
    """Refuse a file that has not the digest that it should have.

    Raises:
        ImageInvalid: It has another one.
    """
    if wanted is not None and found != wanted:
        raise ImageInvalid(
            f"the file has the digest {found}, and {wanted} was given",
            next_step="hand it in again, or correct the digest",
        )
