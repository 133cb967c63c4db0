"""One program of the lab's Ceph: how it is found again, and whether it listens."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from bmi import processes
from bmi.errors import CommandFailed
from bmi.processes import Process

_PROGRAMS = ("ceph-mon", "ceph-mgr", "ceph-osd")
_LOG_QUOTED = 1000  # characters of a log's end that an error quotes


@dataclass(frozen=True)
class Daemon:
    """One of the programs of a cluster.

    Args:
        name: As in `osd.0`.
        argv: Its command line; no other daemon of the host has the same.
        folder: Where everything of the cluster lies.
    """

    name: str
    argv: tuple[str, ...]
    folder: Path

    @property
    def record(self) -> Path:
        """File that remembers its process."""
        return self.folder / f"{self.name}.json"

    @property
    def log(self) -> Path:
        """File that what it says is added to."""
        return self.folder / f"{self.name}.log"

    @property
    def data(self) -> Path:
        """Folder that it keeps its data in; it is there once it is whole."""
        return self.folder / self.name

    def find(self) -> Process | None:
        """Return the process, also one whose starter died before it could write the record."""
        if process := processes.recorded(self.record):
            return process
        return next(running(self.argv), None)

    def require_alive(self, process: Process) -> None:
        """Make sure that it has not ended.

        Raises:
            CommandFailed: It has; the message has its last words.
        """
        if not process.alive():
            words = self.log.read_text(errors="replace").strip()[-_LOG_QUOTED:]
            raise CommandFailed(
                f"{self.argv[0]} ({self.name}) ended at once: {words or 'it said nothing'}",
                next_step=f"mend what it complains about; its log is {self.log}",
            )


def running(words: Sequence[str]) -> Iterator[Process]:
    """Find Ceph's daemons that have some words, one after another, in their command line."""
    wanted, length = tuple(words), len(words)
    for found in psutil.process_iter(["cmdline"]):
        given = tuple(found.info["cmdline"] or ())
        if not given or given[0] not in _PROGRAMS:
            continue
        if any(given[at : at + length] == wanted for at in range(len(given) - length + 1)) and (
            process := Process.of(found.pid)
        ):
            yield process


def listens(process: Process, port: int) -> bool:
    """Say whether a process listens on a TCP port; another's listener there does not count."""
    with suppress(psutil.NoSuchProcess):
        sockets = psutil.Process(process.pid).net_connections("tcp4")
        return any(each.status == psutil.CONN_LISTEN and each.laddr.port == port for each in sockets)
    return False
