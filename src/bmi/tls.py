"""TLS of the API: its certificate, and a renewed one without a restart."""

import ssl
from pathlib import Path

from bmi.errors import SettingsInvalid


class Certificate:
    """A certificate with its key, as files that somebody else renews."""

    def __init__(self, file: Path, key: Path) -> None:
        """Read them.

        Args:
            file: PEM: the certificate, then those between it and the authority.
            key: PEM: its private key, without a passphrase.

        Raises:
            SettingsInvalid: They cannot be read, or do not belong together.
        """
        self._file, self._key = file, key
        self.context = _context(file, key)
        """What a server needs."""

    def read_again(self) -> None:
        """Use what the files hold now for new connections; where that cannot be used, all stays as it is.

        Raises:
            SettingsInvalid: They cannot be read, or do not belong together.
        """
        _context(self._file, self._key)
        _load(self.context, self._file, self._key)


def _context(file: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load(context, file, key)
    return context


def _load(context: ssl.SSLContext, file: Path, key: Path) -> None:
    for path, setting in ((file, "certificate"), (key, "certificate_key")):
        try:
            path.read_bytes()
        except OSError as error:
            raise SettingsInvalid(
                f"api.{setting}: {path} cannot be read: {error.strerror}",
                next_step="give the service's user the right to read it, or correct the setting",
            ) from error
    try:
        # Without a way to give a passphrase OpenSSL would ask on the terminal, and wait.
        context.load_cert_chain(file, key, password=lambda: b"")
    except ssl.SSLError as error:
        raise SettingsInvalid(
            f"api.certificate and api.certificate_key: {file} and {key} cannot be used: "
            f"{error.reason or 'not PEM, or the key has a passphrase'}",
            next_step="give a certificate and its own private key, both PEM, the key without a passphrase",
        ) from error
