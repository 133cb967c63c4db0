"""Secrets at rest: sealed with a key that lives in a file beside the database, not in it."""

import fcntl
import hashlib
import hmac
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.fernet import Fernet, InvalidToken

from bmi.errors import BadRequest, SettingsInvalid

_TOKENS = "tokens "  # what the line of the tokens' key begins with
_NAME_DIGITS = 8


@dataclass(frozen=True)
class Keys:
    """What a key file holds, a key per line."""

    sealing: tuple[str, ...]
    """The first one seals; all of them open."""
    tokens: str
    """What tokens are derived from."""

    def __repr__(self) -> str:
        return f"Keys({', '.join(map(key_name, self.sealing))})"

    def text(self) -> str:
        """Return the file's content."""
        # A file with one key, which is all that most ever need, is that key.
        tail = [] if self.tokens == self.sealing[0] else [f"{_TOKENS}{self.tokens}"]
        return "\n".join([*self.sealing, *tail]) + "\n"


class Vault:
    """Seals and opens secrets, and derives others that need no storing.

    The key file is read again whenever it has changed, so that keys can be changed under running services.
    """

    def __init__(self, key_file: Path) -> None:
        self.key_file = key_file
        self._guard = threading.Lock()
        self._seen: tuple[int, ...] = ()
        if not key_file.exists():
            with changing(key_file):
                if not key_file.exists():  # another process may have been first
                    write_keys(key_file, _first_keys())
        self._keys = self.keys()

    def keys(self) -> Keys:
        """Return the keys as they are now.

        Raises:
            SettingsInvalid: The key file cannot be read, or holds something else.
        """
        with self._guard:
            try:
                status = self.key_file.stat()
                seen = (status.st_ino, status.st_mtime_ns, status.st_size)
                if seen != self._seen:
                    self._keys = _parse(self.key_file, self.key_file.read_text())
                    self._seen = seen
            except (OSError, UnicodeDecodeError) as error:
                raise SettingsInvalid(
                    f"the key file {self.key_file} cannot be read: {type(error).__name__}",
                    next_step="check that it is there, its owner and its mode",
                ) from None
            return self._keys

    def seal(self, secret: str) -> str:
        """Return a secret in a form that may be stored."""
        return Fernet(self.keys().sealing[0]).encrypt(secret.encode()).decode()

    def open(self, sealed: str) -> str:
        """Return a sealed secret.

        Raises:
            SettingsInvalid: It was sealed with a key that is not in the file.
        """
        return self._opened(sealed)[0]

    def sealed_with(self, sealed: str) -> str:
        """Return the key that a secret was sealed with.

        Raises:
            SettingsInvalid: It was sealed with a key that is not in the file.
        """
        return self._opened(sealed)[1]

    def _opened(self, sealed: str) -> tuple[str, str]:
        for key in self.keys().sealing:
            try:
                return Fernet(key).decrypt(sealed.encode()).decode(), key
            except InvalidToken:
                continue
        raise SettingsInvalid(
            f"a secret in the database was not sealed with a key in {self.key_file}",
            next_step="put the key back that belongs to this database: a line of the file as it was",
        )

    def derive(self, purpose: str, subject: str) -> str:
        """Return a token of 64 hexadecimal digits that only this installation can make.

        Args:
            purpose: What the token is good for; tokens of two purposes never match.
            subject: What it is about, such as an id.
        """
        key = self.keys().tokens.encode()
        return hmac.new(key, f"{purpose}\0{subject}".encode(), hashlib.sha256).hexdigest()


def key_name(key: str) -> str:
    """Return what a key may be called in public: digits of its digest."""
    return hashlib.sha256(key.encode()).hexdigest()[:_NAME_DIGITS]


def added(keys: Keys) -> Keys:
    """Return keys with a new one that opens, and does not seal yet."""
    return replace(keys, sealing=(*keys.sealing, Fernet.generate_key().decode()))


def used(keys: Keys, name: str) -> Keys:
    """Return keys of which the one of a name seals.

    Raises:
        BadRequest: There is none of that name.
    """
    for key in keys.sealing:
        if key_name(key) == name:
            return replace(keys, sealing=(key, *(other for other in keys.sealing if other != key)))
    raise BadRequest(f"the file has no key {name}", next_step="see their names: bmi secrets check")


def only_first(keys: Keys) -> Keys:
    """Return keys without those that only open. Tokens that nodes carry stay good."""
    return replace(keys, sealing=keys.sealing[:1])


@contextmanager
def changing(file: Path) -> Iterator[None]:
    """Keep every other process of this host out that changes a key file, from reading it to having written it.

    A process that dies lets go of it.

    Raises:
        SettingsInvalid: Nothing can be made in the file's folder.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(file.with_name(f"{file.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SettingsInvalid(
            f"the key file {file} cannot be changed: {error.strerror}",
            next_step="run this as the user to whom its folder belongs, or make the file by hand",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def write_keys(file: Path, keys: Keys) -> None:
    """Write a key file, or put another content in its place: at every moment it is whole, and private.

    To be called within `changing`: two that write at once would write into the same partial file.
    """
    partial = file.with_name(f"{file.name}.part")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        if file.exists():
            status = file.stat()
            os.fchown(out.fileno(), status.st_uid, status.st_gid)  # root may do this for the service's user
        out.write(keys.text())
        out.flush()
        os.fsync(out.fileno())
    partial.rename(file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _first_keys() -> Keys:
    key = Fernet.generate_key().decode()
    return Keys((key,), key)


def _parse(file: Path, text: str) -> Keys:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    tokens = [line.removeprefix(_TOKENS).strip() for line in lines if line.startswith(_TOKENS)]
    sealing = [line for line in lines if not line.startswith(_TOKENS)]
    if not sealing or len(tokens) > 1 or not _usable([*sealing, *tokens]):
        raise SettingsInvalid(
            f"the key file {file} does not hold one key per line",
            next_step="put the file back as it was; without its keys nobody can read the secrets in the database",
        )
    return Keys(tuple(sealing), tokens[0] if tokens else sealing[0])


def _usable(keys: Sequence[str]) -> bool:
    try:
        for key in keys:
            Fernet(key)
    except ValueError:
        return False
    return True
