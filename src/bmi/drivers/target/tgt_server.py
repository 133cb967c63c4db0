"""One portal's tgtd: how it is started, found again after a restart of BMI, made to listen, and ended.

Everything of it is in one folder: the record of the process, its log, its management socket. Who answers on
that socket is the portal's server; the record only tells of one that does not answer.
"""

import os
import re
import shutil
from pathlib import Path

from bmi import processes
from bmi.drivers.target import Portal
from bmi.drivers.target.tgt_socket import NAME, Refused, TgtSocket
from bmi.errors import CommandFailed, DeadlineExceeded, PortTaken, TargetError
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until

_NOBODY = "127.127.127.127"
"""Where a server listens, on a free port, until it is filled: tgtd always listens somewhere, by default on
every address. No initiator looks here, and nothing else of this host does."""

_START_DEADLINE = 10.0  # seconds; 20 ms on an idle machine
_END_DEADLINE = 5.0  # seconds
_POLL = 0.005  # seconds
_LOG_LIMIT = 1 << 20  # bytes; a node that fails to log in adds a line each time
_LOG_QUOTED = 300  # characters of the log's end that an error quotes
_NAMESPACES = Path("/run/netns")  # where ip-netns(8) keeps them


class TgtServer:
    """The tgtd of one portal, running or not."""

    def __init__(self, folder: Path, *, answer_deadline: float) -> None:
        self.folder = folder
        self.tgtd = TgtSocket(folder, answer_deadline)
        self._record = folder / "process.json"
        self._log = folder / "tgtd.log"

    def process(self) -> Process | None:
        """Return the process that listens on the management socket, if one does."""
        try:
            pid = self.tgtd.pid()
        except TargetError:  # it hangs, and its queue is full
            return processes.recorded(self._record)
        if pid is None:
            return None
        process = Process.of(pid)
        return process if process and process.alive() else None

    def start(self, namespace: str | None, *, threads: int) -> Process:
        """Start tgtd, listening where nobody looks.

        Args:
            namespace: Name of the network namespace that it listens in; the caller's own if None.
            threads: Threads for each logical unit's I/O.

        Raises:
            TargetError: It does not come up.
        """
        self.kill()  # one that is recorded and does not answer, or is about to be gone
        offset = self._log_size()
        # A socket's path has 107 bytes at the most (unix(7)): go by a short name in the folder.
        command: list[str | Path] = ["env", "-C", self.folder, "tgtd"]
        try:
            process = processes.start(
                [*command, "-f", "-t", str(threads), "--iscsi", f"portal={_NOBODY}:0"],
                record=self._record,
                log=self._log,
                namespace=namespace,
                env={"TGT_IPC_SOCKET": NAME},
            )
            self._wait_until_ready(process, offset)
        except CommandFailed as error:
            raise TargetError(error.message, next_step=error.next_step) from error
        except TargetError:
            self.kill()
            raise
        return process

    def is_inside(self, process: Process, namespace: str | None) -> bool:
        """Say whether the server is in a namespace, and not in an earlier one of the same name."""
        wanted = Path("/proc/self/ns/net") if namespace is None else _NAMESPACES / namespace
        try:
            return wanted.stat().st_ino == Path(f"/proc/{process.pid}/ns/net").stat().st_ino
        except FileNotFoundError:
            return False

    def listen(self, portal: Portal) -> bool:
        """Listen on a portal's address and on no other; returns whether there was something to do.

        Raises:
            PortTaken: Another program listens there.
            TargetError: The address is not one of this host.
        """
        wanted = str(portal)
        found = self.tgtd.portals()
        if wanted not in found:
            offset = self._log_size()
            try:
                self.tgtd.new_portal(wanted)
            except Refused as refused:
                raise self._no_portal(portal, self._logged(offset)) from refused
        others = [address for address in found if address != wanted]
        for address in others:
            self.tgtd.delete_portal(address)
        return wanted not in found or bool(others)

    def never_listened(self) -> bool:
        """Say whether no initiator could reach the server so far."""
        return all(address.startswith(f"{_NOBODY}:") for address in self.tgtd.portals())

    def bytes_read(self, process: Process) -> int:
        """Return how many bytes it has read from its logical units' files since it started.

        tgtd's first thread does the network, others do the files. So this is what the kernel counted for the
        whole process, ended threads included, without the first thread (proc(5), `rchar`).
        """
        try:
            network = _rchar(Path(f"/proc/{process.pid}/task/{process.pid}/io"))
            return _rchar(Path(f"/proc/{process.pid}/io")) - network
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            return 0

    def kill(self) -> None:
        """End the process. tgtd ignores SIGTERM, and keeps nothing that it could save.

        Raises:
            TargetError: It is still there: it hangs in the kernel.
        """
        for process in {self.process(), processes.recorded(self._record)}:
            if process is None:
                continue
            try:
                process.stop(kill=True)
            except DeadlineExceeded as error:
                raise TargetError(error.message, next_step=error.next_step) from error
        self._wait_until_gone()

    def forget(self) -> None:
        """Remove everything of an ended server."""
        shutil.rmtree(self.folder)

    # --- starting ----------------------------------------------------------------------------------------

    def _wait_until_gone(self) -> None:
        """Wait until nobody listens any more: threads of a killed process hold its sockets after it is dead."""
        try:
            wait_until(
                lambda: self.tgtd.pid() is None,
                deadline=_END_DEADLINE,
                what="the sockets of an ended tgtd to close",
                next_step="its I/O hangs in the kernel: look into dmesg",
                poll=_POLL,
            )
        except DeadlineExceeded as error:
            raise TargetError(error.message, next_step=error.next_step) from error

    def _wait_until_ready(self, process: Process, offset: int) -> None:
        def ready() -> bool:
            if not process.alive():
                raise TargetError(
                    f"tgtd ended while it started: {self._logged(offset)[-_LOG_QUOTED:]}",
                    next_step=f"mend what it complains about in {self._log}",
                )
            return self.tgtd.pid() == process.pid

        try:
            wait_until(
                ready,
                deadline=_START_DEADLINE,
                what="tgtd to answer",
                next_step=f"look into {self._log}",
                poll=_POLL,
            )
        except DeadlineExceeded as error:
            raise TargetError(error.message, next_step=error.next_step) from error
        if not self.never_listened():  # it falls back to every address of the host
            raise TargetError(
                f"tgtd cannot listen on {_NOBODY}: {self._logged(offset)[-_LOG_QUOTED:]}",
                next_step="bring the loopback interface of the network namespace up",
            )

    # --- listening ---------------------------------------------------------------------------------------

    def _no_portal(self, portal: Portal, logged: str) -> TargetError | PortTaken:
        where = str(portal) if portal.namespace is None else f"{portal} in namespace {portal.namespace}"
        if "Address already in use" in logged:
            holder = _holder(portal)
            return PortTaken(
                f"address {where} is taken by {holder or 'another program'}",
                next_step="end that program, or let BMI listen on another address or port",
            )
        return TargetError(
            f"tgtd cannot listen on {where}: {logged.strip()[-_LOG_QUOTED:]}",
            next_step="bring the gateway's address on this network up",
        )

    # --- the log -----------------------------------------------------------------------------------------

    def _log_size(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    def _logged(self, offset: int) -> str:
        with self._log.open("rb") as log:
            log.seek(offset)
            return log.read().decode(errors="replace")

    def trim_log(self) -> None:
        """Empty the log when it has grown long; tgtd, which appends, goes on with an empty one."""
        if self._log_size() > _LOG_LIMIT:
            os.truncate(self._log, 0)


def _holder(portal: Portal) -> str | None:
    """Find out which program listens on a portal's address, if this user may know."""
    try:
        sockets = run(["ss", "-Hltnp", f"sport = :{portal.port}"], namespace=portal.namespace)
    except CommandFailed:
        return None
    for line in sockets.splitlines():
        local = line.split()[3].rpartition(":")[0]
        program = re.search(r'\("([^"]*)",pid=(\d+)', line)
        if program and local in (str(portal.address), "0.0.0.0", "*"):  # noqa: S104
            return f"{program[1]} (process {program[2]})"
    return None


def _rchar(counters: Path) -> int:
    fields = dict(line.split(": ") for line in counters.read_text().splitlines())
    return int(fields["rchar"])
