"""Secrets at rest: sealed with a key that lives in a file beside the database, not in it."""

import hashlib
import hmac
import os
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from bmi.errors import SettingsInvalid


class Vault:
    """Seals and opens secrets, and derives others that need no storing."""

    def __init__(self, key_file: Path) -> None:
        self._key_file = key_file
        self._key = _read_or_make(key_file)
        self._fernet = Fernet(self._key)

    def seal(self, secret: str) -> str:
        """Return a secret in a form that may be stored."""
        return self._fernet.encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return a sealed secret.

        Raises:
            SettingsInvalid: It was sealed with another key.
        """
        try:
            return self._fernet.decrypt(sealed.encode()).decode()
        except InvalidToken as error:
            raise SettingsInvalid(
                f"a secret in the database was not sealed with the key in {self._key_file}",
                next_step="put the key file back that belongs to this database",
            ) from error

    def derive(self, purpose: str, subject: str) -> str:
        """Return a token of 64 hexadecimal digits that only this installation can make.

        Args:
            purpose: What the token is good for; tokens of two purposes never match.
            subject: What it is about, such as an id.
        """
        return hmac.new(self._key, f"{purpose}\0{subject}".encode(), hashlib.sha256).hexdigest()


def _read_or_make(path: Path) -> bytes:
    try:
        return path.read_bytes().strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        key = Fernet.generate_key()
        partial = path.with_suffix(".part")
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(path)
        return key
