"""Passwords: argon2id, and as much work for a user who does not exist as for one who does."""

import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from bmi.errors import TooManyAttempts

# RFC 9106's second choice: 64 MiB for each log-in.
_HASHER = PasswordHasher(
    time_cost=3, memory_cost=65536, parallelism=4, hash_len=32, salt_len=16, type=Type.ID
)
_NOBODYS = "$argon2id$v=19$m=65536,t=3,p=4$wJuXQ6mOP1ZJ6ZTdmVYkrg$K0e8dS0cYq3cVw0tq1sQn2V9b8g1yA7mRr5j0l4Xo7U"
_AT_ONCE = threading.BoundedSemaphore(4)  # 256 MiB, however many people log in
_PATIENCE = 10.0  # seconds


def hashed(password: str) -> str:
    """Return what is kept of a password.

    Raises:
        TooManyAttempts: Too many are being hashed at this moment.
    """
    with _one_of_few():
        return _HASHER.hash(_normal(password))


def right(password: str, kept: str | None) -> bool:
    """Say whether a password is the one that a hash was made of.

    Args:
        password: What somebody claims.
        kept: The hash; None where there is no such user, which takes as long, and is never right.

    Raises:
        TooManyAttempts: Too many are being compared at this moment.
    """
    with _one_of_few():
        try:
            matches = _HASHER.verify(kept or _NOBODYS, _normal(password))
        except (VerificationError, InvalidHashError):
            return False
    return matches and kept is not None


@contextmanager
def _one_of_few() -> Iterator[None]:
    if not _AT_ONCE.acquire(timeout=_PATIENCE):
        raise TooManyAttempts("too many log in at this moment", retry_after=_PATIENCE)
    try:
        yield
    finally:
        _AT_ONCE.release()


def _normal(password: str) -> str:
    # Keyboards write the same letter in several ways (RFC 8265, section 4.2).
    return unicodedata.normalize("NFC", password)
