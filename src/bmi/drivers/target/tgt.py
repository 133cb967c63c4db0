"""iSCSI by tgt: one tgtd process for each portal, driven through its management socket.

tgtd keeps its state in memory and shares one fate among all its targets. So every portal has a process of its
own, that process outlives BMI, and a new one is filled before it listens where initiators look.

What initiators get: LUNs with write-back caching (the WCE bit is set), whose SYNCHRONIZE CACHE, FUA writes
and writes after the initiator cleared WCE end in an fdatasync of the file. Discovery is closed to everyone.
A node that lost its power stays among the sessions until it comes back or TCP gives up after some hours: tgtd
could ask with NOP-In, but iPXE takes those for an error.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

from pydantic import Field

from bmi.drivers import Options, Outcome, Site, parse_options
from bmi.drivers.target import Export, Portal, Removal, Session
from bmi.drivers.target.checks import check_exports, check_portal
from bmi.drivers.target.tgt_export import Filled, fill, served, take_apart
from bmi.drivers.target.tgt_lock import PortalLocks
from bmi.drivers.target.tgt_server import TgtServer
from bmi.drivers.target.tgt_socket import Code, Refused
from bmi.errors import PortTaken, TargetError
from bmi.processes import Process


class TgtOptions(Options):
    """Options of the `tgt` target driver."""

    threads: int = Field(default=4, ge=1, le=64)
    """Threads for each LUN's I/O; tgtd's own default of 16 makes 16000 of them with 1000 LUNs."""
    answer_deadline: float = Field(default=10, gt=0)
    """Seconds tgtd gets to answer a request."""
    remove_deadline: float = Field(default=10, gt=0)
    """Seconds an export gets to go away before its whole server is ended."""


class TgtTarget:
    """Serves exports with tgt; see `bmi.drivers.target.Target`."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(TgtOptions, options, driver="tgt")
        self._folder = site.state_dir / "target"
        self._locks = PortalLocks(self._folder)
        self._guard = threading.Lock()  # of what follows
        self._watched: set[int] = set()  # process ids, which stay taken while somebody watches
        self._callbacks: list[Callable[[UUID], None]] = []
        for portal in self.portals():
            if process := self._server(portal).process():
                self._watch(portal, process)

    # --- the protocol ------------------------------------------------------------------------------------

    def serve(self, portal: Portal, exports: Sequence[Export]) -> Outcome:
        """Make sure that a portal serves at least these exports.

        An export that is there in another form, its secret included, is made anew. One that cannot be served
        does not keep the others from being served, and is reported after that.
        """
        check_portal(portal)
        check_exports(exports)
        with self._locks.held(portal.id, make=True):
            server = self._server(portal.id)
            process = server.process()
            if process and not server.is_inside(process, portal.namespace):
                self._end(server)
                process = None
            started = process is None
            if process is None:
                process = server.start(portal.namespace, threads=self._options.threads)
            self._watch(portal.id, process)
            server.trim_log()
            filled = fill(server.tgtd, exports, deadline=self._options.remove_deadline)
            opened = self._listen(server, portal)
        if filled.failed:
            raise _unserved(portal, filled)
        return Outcome.DONE if started or opened or filled.changed else Outcome.ALREADY

    def remove(self, portal: UUID, iqn: str) -> Removal:
        """Take an export away: refuse new log-ins, close sessions, remove, and verify by listing."""
        with self._locks.held(portal):
            server = self._server(portal)
            if server.process() is None:
                return Removal(Outcome.ALREADY)
            try:
                found = [target for target in server.tgtd.targets() if target.name == iqn]
                if not found:
                    return Removal(Outcome.ALREADY)
                initiators = take_apart(server.tgtd, found[0], deadline=self._options.remove_deadline)
            except TargetError:  # it hangs, or holds on to a session: nobody may keep the disk for that
                self._end(server)
                return Removal(Outcome.DONE, forced=True)
            return Removal(Outcome.DONE, initiators)

    def exports(self, portal: UUID) -> list[Export]:
        """List what a portal really serves. Secrets cannot be read back and are empty."""
        server = self._server(portal)
        return served(server.tgtd.targets()) if server.process() else []

    def sessions(self, portal: UUID) -> list[Session]:
        """List who is logged in at a portal; nobody if it does not run."""
        server = self._server(portal)
        if server.process() is None:
            return []
        found = []
        for iqn, tid in server.tgtd.target_ids().items():
            try:
                connections = server.tgtd.connections(tid)
            except Refused as refused:
                if refused.tgtd_code != Code.NO_TARGET:  # removed since it was listed
                    raise
                continue
            found += [Session(iqn, c.initiator, c.address, c.session) for c in connections]
        return found

    def portals(self) -> list[UUID]:
        """List the portals of this installation whose server runs."""
        folders = self._folder.iterdir() if self._folder.exists() else []
        portals = [UUID(folder.name) for folder in folders if _is_id(folder.name)]
        return [portal for portal in portals if self._server(portal).process()]

    def stop(self, portal: UUID) -> Outcome:
        """End a portal's server, with everything it serves."""
        with self._locks.held(portal) as there:
            if not there:
                return Outcome.ALREADY
            server = self._server(portal)
            ran = server.process() is not None
            self._end(server)
            server.forget()
            return Outcome.DONE if ran else Outcome.ALREADY

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        """Call this when a portal's server ended and nobody asked it to, also for servers found running."""
        with self._guard:
            self._callbacks.append(call)

    def close(self) -> None:
        """Let go of connections. Servers go on."""
        with self._guard:
            self._callbacks.clear()

    # --- more than the protocol --------------------------------------------------------------------------

    def bytes_read(self, portal: UUID) -> int:
        """Return how many bytes initiators made a portal's server read from its disks and seeds.

        Counted since that server started, all its exports together; reads that the page cache answers count,
        what initiators write does not. 0 if it does not run.
        """
        server = self._server(portal)
        process = server.process()
        return server.bytes_read(process) if process else 0

    # --- how ---------------------------------------------------------------------------------------------

    def _server(self, portal: UUID) -> TgtServer:
        return TgtServer(self._folder / str(portal), answer_deadline=self._options.answer_deadline)

    def _listen(self, server: TgtServer, portal: Portal) -> bool:
        try:
            return server.listen(portal)
        except (PortTaken, TargetError):
            if server.never_listened():
                self._end(server)
                server.forget()
            raise

    def _end(self, server: TgtServer) -> None:
        """End a server so that its end surprises nobody."""
        if process := server.process():
            with self._guard:
                self._watched.discard(process.pid)
        server.kill()

    def _watch(self, portal: UUID, process: Process) -> None:
        with self._guard:
            if process.pid in self._watched:
                return
            self._watched.add(process.pid)
        process.on_exit(lambda: self._ended(portal, process.pid))

    def _ended(self, portal: UUID, pid: int) -> None:
        with self._guard:
            unasked = pid in self._watched
            self._watched.discard(pid)
            callbacks = list(self._callbacks) if unasked else []
        for call in callbacks:
            call(portal)


def _is_id(name: str) -> bool:
    try:
        return str(UUID(name)) == name
    except ValueError:
        return False


def _unserved(portal: Portal, filled: Filled) -> TargetError:
    first = filled.failed[0]
    if len(filled.failed) == 1:
        return first
    return TargetError(
        f"{len(filled.failed)} exports of {portal} are not served: "
        + "; ".join(error.message for error in filled.failed),
        next_step=first.next_step,
    )
