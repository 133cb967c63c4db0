"""One portal's tgtd: how it is started, found again after a restart of BMI, made to listen, and ended.

Everything of it is in one folder: the record of the process, its log, its management socket. One that was started
right before BMI died has no record; it is the one that answers on that socket.

Initiators reach it in one of two ways. It listens on the portal's address itself, inside the portal's namespace.
Or it stays where nobody looks, in the host's namespace, and a forwarder leads to it.
"""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

from bmi import processes
from bmi.drivers.target import Portal
from bmi.drivers.target.ceph_locks import CephLocks
from bmi.drivers.target.ports import NAMESPACES, connected_to, port_taken, where
from bmi.drivers.target.tgt_forwarder import Forwarder
from bmi.drivers.target.tgt_log import Log
from bmi.drivers.target.tgt_socket import NAME, Refused, TgtSocket, Unanswered
from bmi.errors import CommandFailed, DeadlineExceeded, PortTaken, TargetError
from bmi.processes import Process
from bmi.rights import Rights
from bmi.wait import wait_until

log = logging.getLogger(__name__)

_NOBODY = "127.127.127.127"
"""Where a server listens, on a free port, until it is filled, or for good if a forwarder leads to it: tgtd always
listens somewhere, by default on every address. No initiator looks here, and nothing else of this host does."""

_TAKEN = "another tgtd is using"
"""What tgtd logs before it ends because another one has its management socket."""

_START_DEADLINE = 10.0  # seconds; 20 ms on an idle machine
_END_DEADLINE = 5.0  # seconds
_POLL = 0.005  # seconds


class _Taken(TargetError):
    """Another tgtd has the portal's management socket."""


class TgtServer:
    """The tgtd of one portal, running or not."""

    def __init__(self, folder: Path, *, answer_deadline: float, rights: Rights) -> None:
        self.folder = folder
        self.tgtd = TgtSocket(folder, answer_deadline)
        self.log = Log(folder / "tgtd.log")
        self.forwarder = Forwarder(folder, rights)
        self._rights = rights
        self.locks = CephLocks(folder)
        self._record = folder / "process.json"

    def process(self) -> Process | None:
        """Return its process: the one that is recorded, or else the one that listens on the management socket."""
        if process := processes.recorded(self._record):
            return process
        pid = self.tgtd.pid()
        found = None if pid is None else Process.of(pid)
        return found if found and found.alive() else None

    def runs_at_all(self) -> bool:
        """Say whether any process of it runs, be it of use or not."""
        return self.process() is not None or self.forwarder.process() is not None

    def reachable(self) -> bool:
        """Say whether it runs, and the forwarder as well if it has one."""
        return self.process() is not None and (
            not self.forwarder.known() or self.forwarder.process() is not None
        )

    def hangs(self) -> bool:
        """Say whether its process runs and does not answer; that takes as long as it is given to answer."""
        if self.process() is None:
            return False
        try:
            self.tgtd.target_ids()
        except Unanswered as error:
            log.warning("%s", error.message)
            return self.process() is not None
        return False

    def peers(self) -> set[str]:
        """Return the addresses of those who are connected, without asking it."""
        if self.forwarder.known():
            return self.forwarder.peers()
        process = self.process()
        return connected_to(process.pid) if process else set()

    def start(self, namespace: str | None, *, threads: int) -> Process:
        """Start tgtd, listening where nobody looks.

        Args:
            namespace: Name of the network namespace that it listens in; the caller's own if None.
            threads: Threads for each logical unit's I/O.

        Raises:
            TargetError: It does not come up.
        """
        self.kill()  # one that is recorded and does not answer, or is about to be gone
        try:
            return self._start(namespace, threads)
        except _Taken:  # a BMI that died had just started one, which nobody could see so far
            _wait(
                lambda: self.tgtd.pid() is not None,
                deadline=_START_DEADLINE,
                what=f"the tgtd that holds {self.folder} to answer",
                next_step="serve the portal again",
            )
        self.kill()
        return self._start(namespace, threads)

    def is_inside(self, process: Process, namespace: str | None) -> bool:
        """Say whether the server is in a namespace, and not in an earlier one of the same name."""
        wanted = Path("/proc/self/ns/net") if namespace is None else NAMESPACES / namespace
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
        if forwarded := self.forwarder.known():
            self.forwarder.kill()
        wanted = str(portal)
        found = self.tgtd.portals()
        if wanted not in found:
            offset = self.log.size()
            try:
                self.tgtd.new_portal(wanted)
            except Refused as refused:
                raise self._no_portal(portal, self.log.end_since(offset)) from refused
        others = [address for address in found if address != wanted]
        for address in others:
            self.tgtd.delete_portal(address)
        if forwarded:
            self.forwarder.forget()
        return wanted not in found or bool(others)

    def _no_portal(self, portal: Portal, logged: str) -> TargetError | PortTaken:
        if "Address already in use" in logged:
            return port_taken(self._rights, portal)
        return TargetError(
            f"tgtd cannot listen on {where(portal)}: {logged}",
            next_step="bring the gateway's address on this network up",
        )

    def is_led_to(self, portal: Portal) -> bool:
        """Say whether a forwarder leads from a portal to this server."""
        return self.forwarder.leads(portal, self._hiding_place())

    def lead(self, portal: Portal) -> Process:
        """Let a forwarder lead from a portal, and from nowhere else, to this server, which is hidden.

        Raises:
            PortTaken: Another program listens there; a forwarder from elsewhere goes on.
            TargetError: The address is not one of the portal's namespace.
        """
        return self.forwarder.start(portal, self._hiding_place())

    def _hiding_place(self) -> str:
        return self.tgtd.portals()[0]

    def hidden(self) -> bool:
        """Say whether it listens only where no initiator looks."""
        return all(address.startswith(f"{_NOBODY}:") for address in self.tgtd.portals())

    def never_listened(self) -> bool:
        """Say whether no initiator could reach the server so far."""
        return self.hidden() and not self.forwarder.known()

    def bytes_read(self, process: Process) -> int:
        """Return how many bytes it has read from its logical units' files since it started; not from Ceph.

        tgtd's first thread does the network, others do the files. So this is what the kernel counted for the
        whole process, ended threads included, without the first thread (proc(5), `rchar`).
        """
        try:
            network = _rchar(Path(f"/proc/{process.pid}/task/{process.pid}/io"))
            return _rchar(Path(f"/proc/{process.pid}/io")) - network
        except (FileNotFoundError, ProcessLookupError):  # it has just ended
            return 0

    def kill(self) -> None:
        """End the process, and its forwarder. tgtd ignores SIGTERM, and keeps nothing that it could save.

        Raises:
            TargetError: It is still there: it hangs in the kernel.
        """
        self.forwarder.kill()
        self.forwarder.forget()
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
        self.forwarder.kill_forgotten()
        shutil.rmtree(self.folder)

    # --- starting ----------------------------------------------------------------------------------------

    def _start(self, namespace: str | None, threads: int) -> Process:
        offset = self.log.size()
        # A socket's path has 107 bytes at the most (unix(7)): go by a short name in the folder.
        # With images in Ceph an initiator can make tgtd abort: that must not fill the disk with core files.
        command: list[str | Path] = ["prlimit", "--core=0", "env", "-C", self.folder, "tgtd"]
        try:
            process = processes.start(
                [*command, "-f", "-t", str(threads), "--iscsi", f"portal={_NOBODY}:0"],
                record=self._record,
                log=self.log.path,
                namespace=namespace,
                env={"TGT_IPC_SOCKET": NAME},
            )
        except CommandFailed as error:
            raise TargetError(error.message, next_step=error.next_step) from error
        try:
            self._wait_until_ready(process, offset)
        except _Taken:  # it has ended, and the other one is not this call's to end
            raise
        except TargetError:
            self.kill()
            raise
        return process

    def _wait_until_gone(self) -> None:
        """Wait until nobody listens any more: threads of a killed process hold its sockets after it is dead."""
        _wait(
            lambda: self.tgtd.pid() is None,
            deadline=_END_DEADLINE,
            what="the sockets of an ended tgtd to close",
            next_step="its I/O hangs in the kernel: look into dmesg",
        )

    def _wait_until_ready(self, process: Process, offset: int) -> None:
        def ready() -> bool:
            if not process.alive():
                error = _Taken if _TAKEN in self.log.since(offset) else TargetError
                raise error(
                    f"tgtd ended while it started: {self.log.end_since(offset)}",
                    next_step=f"mend what it complains about in {self.log.path}",
                )
            return self.tgtd.pid() == process.pid

        _wait(
            ready,
            deadline=_START_DEADLINE,
            what="tgtd to answer",
            next_step=f"look into {self.log.path}",
        )
        if not self.hidden():  # it falls back to every address of the host
            raise TargetError(
                f"tgtd cannot listen on {_NOBODY}: {self.log.end_since(offset)}",
                next_step="bring the loopback interface of the network namespace up",
            )


def _wait(until: Callable[[], bool], *, deadline: float, what: str, next_step: str) -> None:
    """Wait for something that a tgtd does; a deadline that passes is the target's error."""
    try:
        wait_until(until, deadline=deadline, what=what, next_step=next_step, poll=_POLL)
    except DeadlineExceeded as error:
        raise TargetError(error.message, next_step=error.next_step) from error


def _rchar(counters: Path) -> int:
    fields = dict(line.split(": ") for line in counters.read_text().splitlines())
    return int(fields["rchar"])
