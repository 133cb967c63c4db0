"""Where the files of a network's dnsmasq are, and how they are written.

    <state_dir>/boot/<network>/                    root's alone
        dnsmasq.conf, dnsmasq.json, dnsmasq.out    configuration, record of the process, its last words
        dnsmasq.log, log.position                  what it saw, and how far that was read
    <run_dir>/<installation>/<network>/            in memory; dnsmasq may enter after it has given up root's rights
        hosts, options, names                      reservations; the boot scripts' addresses, with secrets; names
        applied                                    digest of these, as dnsmasq confirmed them
        leases                                     or <leases>/<network>.leases and .status, as the settings say

Hosts and options are read again while dnsmasq runs, and `state_dir` is closed to everybody but root. Leases are
written with fsync(2) before dnsmasq answers: on a busy disk nodes would wait. They need not outlive the host, for
every address is reserved.
"""

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Files:
    """The files of one network."""

    kept: Path
    shown: Path
    leases_folder: Path | None = None
    """Where leases are that are to outlive the host's next start; with the other files in memory if None."""

    @property
    def conf(self) -> Path:
        """What dnsmasq reads when it starts."""
        return self.kept / "dnsmasq.conf"

    @property
    def record(self) -> Path:
        """Which process it is."""
        return self.kept / "dnsmasq.json"

    @property
    def output(self) -> Path:
        """What it wrote before it had its log, or when it died."""
        return self.kept / "dnsmasq.out"

    @property
    def log(self) -> Path:
        """What it saw."""
        return self.kept / "dnsmasq.log"

    @property
    def position(self) -> Path:
        """How far the log was read."""
        return self.kept / "log.position"

    @property
    def hosts(self) -> Path:
        """Reservations, read again on SIGHUP."""
        return self.shown / "hosts"

    @property
    def options(self) -> Path:
        """Options of single hosts, read again on SIGHUP."""
        return self.shown / "options"

    @property
    def names(self) -> Path:
        """Names that are answered, read again on SIGHUP."""
        return self.shown / "names"

    @property
    def applied(self) -> Path:
        """Digest of the hosts and options that dnsmasq has read for sure."""
        return self.shown / "applied"

    @property
    def leases(self) -> Path:
        """Addresses that nodes have taken."""
        if self.leases_folder is None:
            return self.shown / "leases"
        return self.leases_folder / f"{self.kept.name}.leases"

    @property
    def leases_copy(self) -> Path | None:
        """The same for other programs, as libvirt keeps them."""
        return None if self.leases_folder is None else self.leases_folder / f"{self.kept.name}.status"


def make_folder(folder: Path, mode: int) -> None:
    """Make a folder, and those above it, with a mode; those that exist stay as they are."""
    if folder.exists():
        return
    if not folder.parent.exists():
        make_folder(folder.parent, mode)
    folder.mkdir(exist_ok=True)
    folder.chmod(mode)


def write(path: Path, text: str, *, owner: int | None = None) -> None:
    """Replace a file as a whole, readable by its owner alone.

    Args:
        path: The file.
        text: What it is to hold.
        owner: Id of the user who is to own it; the caller if None.
    """
    partial = path.with_name(f"{path.name}.part")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w") as file:
        if owner is not None:
            os.fchmod(fd, 0o400)
            os.fchown(fd, owner, -1)
        file.write(text)
    partial.rename(path)


def read(path: Path, position: int = 0) -> str | None:
    """Return what a file holds from a position on, or None if there is no file."""
    try:
        with path.open("rb") as file:
            file.seek(position)
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return None


def size(path: Path) -> int:
    """Return how many bytes a file has; none if there is no file."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
