"""The configuration file that BMI and its targets use: the cluster's own, with what BMI needs after it."""

import configparser
import os
from pathlib import Path

from bmi.drivers.storage.rbd.options import RbdOptions
from bmi.errors import StorageError


def write(options: RbdOptions, file: Path) -> None:
    """Write the file, whole or not at all.

    The section of the one user wins over whatever the cluster's configuration says for all clients.

    Raises:
        StorageError: The cluster's configuration cannot be read.
    """
    text = read(options.conf) + (
        f"\n[client.{options.user}]\n"
        f"keyring = {options.key_file}\n"
        f"client_mount_timeout = {options.connect_timeout}\n"
        f"rados_mon_op_timeout = {options.timeout}\n"
        f"rados_osd_op_timeout = {options.io_timeout}\n"
        # A target that is killed takes its cache along. Its node goes on, and a later flush would not tell it that
        # what was acknowledged before is gone.
        "rbd_cache_policy = writethrough\n"
        # A process for each node: their sockets and logs would fill the host.
        "admin_socket =\n"
        "log_file =\n"
    )
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(text)
    partial.replace(file)


def read(path: Path) -> str:
    """Return the text of a cluster's configuration.

    Raises:
        StorageError: It cannot be read, or names no monitor.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"Ceph's configuration {path} cannot be read: {error}",
            next_step="copy it from the cluster (ceph config generate-minimal-conf), or correct the option conf",
        ) from error
    if not _mon_host(text):
        raise StorageError(
            f"Ceph's configuration {path} does not say where the monitors are",
            next_step="put mon_host into its section [global]: ceph config generate-minimal-conf shows it",
        )
    return text


def monitors(path: Path) -> str:
    """Return the monitors' addresses for people, as the cluster's configuration has them."""
    try:
        return _mon_host(path.read_text()) or f"the addresses in {path}"
    except (OSError, UnicodeDecodeError):
        return f"the addresses in {path}"


def require_key(options: RbdOptions) -> None:
    """Make sure that the user's key can be read.

    Raises:
        StorageError: It cannot, or the file has no key of this user.
    """
    path, entity = options.key_file, f"client.{options.user}"
    try:
        found = f"[{entity}]" in path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(
            f"the keyring {path} cannot be read: {error}",
            next_step=f"write it with: ceph auth get {entity} -o {path}",
        ) from error
    if not found:
        raise StorageError(
            f"the keyring {path} has no key of {entity}",
            next_step=f"write it with: ceph auth get {entity} -o {path}",
        )


def _mon_host(text: str) -> str | None:
    # Ceph takes blanks, underscores and dashes in a name for the same.
    parser = configparser.ConfigParser(
        strict=False, interpolation=None, allow_no_value=True, comment_prefixes=("#", ";")
    )
    parser.optionxform = lambda name: name.strip().lower().replace(" ", "_").replace("-", "_")  # type: ignore[assignment, method-assign]
    try:
        parser.read_string("\n".join(line.strip() for line in text.splitlines()))
    except configparser.Error:
        return None
    return next((parser[section]["mon_host"] for section in parser if parser[section].get("mon_host")), None)
