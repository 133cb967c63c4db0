"""iSCSI by tgt: one tgtd process for each portal, driven through its management socket.

tgtd keeps its state in memory and shares one fate among all its targets. So every portal has a process of its
own, that process outlives BMI, and a new one is filled before it listens where initiators look.

Images in Ceph are opened by tgtd itself, with librbd. Ceph is reachable from the host's network namespace only:
for a portal in another one tgtd runs in the host's, and a forwarder stands before it; so it is with files where
BMI is not root and cannot start a program inside a namespace. Give each such export a
portal of its own: an initiator can make this tgtd abort (a READ of no blocks is enough), and while Ceph does not
answer to a request for one image, tgtd does nothing for the others.

What initiators get: LUNs with write-back caching (the WCE bit is set), whose SYNCHRONIZE CACHE, FUA writes
and writes after the initiator cleared WCE end in an fdatasync of the file, or in a flush of librbd's cache. What
tgtd acknowledged outlives it, flushed or not: it is in the kernel's page cache, or in Ceph, as long as the
configuration says `rbd_cache_policy = writethrough`.

tgtd lets in by name or by address, not by both. So it asks for the name, and the kernel for the address: see
`bmi.rights.peers`.

Discovery is closed to everyone. A node that lost its power stays among the sessions until it comes back or TCP
gives up: after some hours, or two minutes with a forwarder, which looks after it. tgtd could ask with NOP-In, but
iPXE takes those for an error.
"""

import logging
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

from pydantic import Field

from bmi.drivers import Options, Outcome, Site, parse_options
from bmi.drivers.target import Export, Portal, Removal, Session
from bmi.drivers.target.checks import check_exports, check_portal
from bmi.drivers.target.portal_lock import PortalLocks
from bmi.drivers.target.tgt_export import Filled, fill, served, take_apart
from bmi.drivers.target.tgt_server import TgtServer
from bmi.drivers.target.tgt_socket import Code, Refused, Unanswered
from bmi.errors import BadRequest, PortTaken, TargetError
from bmi.processes import Process

log = logging.getLogger(__name__)


class TgtOptions(Options):
    """Options of the `tgt` target driver."""

    threads: int = Field(default=4, ge=1, le=64)
    """Threads for each LUN's I/O; tgtd's own default of 16 makes 16000 of them with 1000 LUNs."""
    answer_deadline: float = Field(default=10, gt=0)
    """Seconds tgtd gets to answer a request, after which it counts as hung and is ended; more than Ceph's
    configuration gives it to connect."""
    remove_deadline: float = Field(default=10, gt=0)
    """Seconds an export gets to go away before its whole server is ended."""


class TgtTarget:
    """Serves exports with tgt; see `bmi.drivers.target.Target`."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(TgtOptions, options, driver="tgt")
        self._folder = site.state_dir / "target"
        self._rights = site.rights
        self._locks = PortalLocks(self._folder)
        self._guard = threading.Lock()  # of what follows
        self._watched: set[int] = set()  # process ids, which stay taken while somebody watches
        self._callbacks: list[Callable[[UUID], None]] = []
        for portal in self._known():
            server = self._server(portal)
            for process in (server.process(), server.forwarder.process()):
                if process is not None:
                    self._watch(portal, process)

    # --- the protocol ------------------------------------------------------------------------------------

    def serve(self, portal: Portal, exports: Sequence[Export]) -> Outcome:
        """Make sure that a portal serves at least these exports.

        An export that is there in another form, its secret included, is made anew. One that cannot be served
        does not keep the others from being served, and is reported after that. A tgtd that hangs is replaced.
        """
        check_portal(portal)
        check_exports(exports)
        with self._locks.held(portal.id, make=True):
            server = self._server(portal.id)
            if server.hangs():
                self._end(server)
            forwarded = portal.namespace is not None and (
                _in_ceph(exports) or server.forwarder.known() or not self._rights.inside
            )
            with self._ended_if_it_hangs(server, exports):
                process = self._in_place(server, portal, exports, forwarded=forwarded)
                started = process is None
                if process is None:
                    server.locks.break_left(exports)
                    home = None if forwarded else portal.namespace
                    process = server.start(home, threads=self._options.threads)
                self._watch(portal.id, process)
                server.log.trim()
                filled = fill(server.tgtd, server.log, exports, deadline=self._options.remove_deadline)
                if not filled.failed and (filled.changed or not server.locks.know(exports)):
                    server.locks.remember(exports)
            opened = False
            if not filled.failed or self._serves_anything(server, exports):
                opened = self._open(server, portal, forwarded=forwarded)
        if filled.failed:
            raise _unserved(portal, filled)
        return Outcome.DONE if started or opened or filled.changed else Outcome.ALREADY

    def remove(self, portal: UUID, iqn: str) -> Removal:
        """Take an export away: refuse new log-ins, close sessions, remove, and verify by listing."""
        with self._locks.held(portal):
            server = self._server(portal)
            if server.process() is None:
                return Removal(Outcome.ALREADY)
            seen: set[str] = set()
            try:
                found = [target for target in server.tgtd.targets() if target.name == iqn]
                if not found:
                    return Removal(Outcome.ALREADY)
                take_apart(server.tgtd, found[0], seen, deadline=self._options.remove_deadline)
            except (
                TargetError
            ) as error:  # it hangs, or holds on to a session: nobody may keep the disk for that
                left = tuple(sorted(seen or server.peers()))
                log.warning("%s goes by force (%s); still there: %s", iqn, error.message, left or "nobody")
                self._end(server)
                return Removal(Outcome.DONE, left, forced=True)
            return Removal(Outcome.DONE, tuple(sorted(seen)))

    def exports(self, portal: UUID) -> list[Export]:
        """List what a portal really serves, without what cannot be read back."""
        server = self._server(portal)
        return served(server.tgtd.targets()) if server.reachable() else []

    def sessions(self, portal: UUID) -> list[Session]:
        """List who is logged in at a portal; nobody if it does not run."""
        server = self._server(portal)
        if not server.reachable():
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
        if found and server.forwarder.known():  # tgtd sees the forwarder's address
            peers = server.forwarder.peers()
            address = peers.pop() if len(peers) == 1 else ""
            return [replace(session, address=address) for session in found]
        return found

    def portals(self) -> list[UUID]:
        """List the portals of this installation of whose server anything runs."""
        return [portal for portal in self._known() if self._server(portal).runs_at_all()]

    def stop(self, portal: UUID) -> Outcome:
        """End a portal's server, with everything it serves."""
        with self._locks.held(portal) as there:
            if not there:
                return Outcome.ALREADY
            server = self._server(portal)
            ran = server.process() is not None
            if ran:
                self._close_images(server)
            self._end(server)
            server.forget()
            return Outcome.DONE if ran else Outcome.ALREADY

    def end_if_hung(self, portal: UUID) -> bool:
        """End a portal's tgtd, or its forwarder, that runs and does not answer in time."""
        with self._locks.held(portal):
            server = self._server(portal)
            if not server.hangs():
                return self._end_forwarder_if_hung(server)
            # Only tgtd's own end is told of, not that of its forwarder, which goes with it.
            self._forgive(server.forwarder.process())
            server.kill()
            return True

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
        return TgtServer(
            self._folder / str(portal), answer_deadline=self._options.answer_deadline, rights=self._rights
        )

    def _known(self) -> list[UUID]:
        folders = self._folder.iterdir() if self._folder.exists() else []
        return [UUID(folder.name) for folder in folders if _is_id(folder.name)]

    def _in_place(
        self, server: TgtServer, portal: Portal, exports: Sequence[Export], *, forwarded: bool
    ) -> Process | None:
        """Return the process of a server that runs where it should; one that runs elsewhere is ended.

        Raises:
            BadRequest: It would have to move to where Ceph is, and serves exports that would be lost.
        """
        process = server.process()
        if process is None:
            self._forgive(server.forwarder.process())  # starting the server anew will end it
            return None
        if forwarded:
            if server.is_inside(process, None) and server.hidden():
                return process
            others = {found.iqn for found in served(server.tgtd.targets())} - {e.iqn for e in exports}
            if others:
                raise BadRequest(
                    f"portal {portal} serves files from inside {portal.namespace}, where Ceph cannot be reached",
                    next_step="give each export with images in Ceph a portal of its own",
                )
        elif server.is_inside(process, portal.namespace):
            return process
        self._end(server)
        return None

    @contextmanager
    def _ended_if_it_hangs(self, server: TgtServer, exports: Sequence[Export]) -> Iterator[None]:
        """End a server that stops answering, as one that waits for Ceph: it does nothing for anybody meanwhile."""
        try:
            yield
        except Unanswered as error:
            self._end(server)
            if not _in_ceph(exports):
                raise
            raise TargetError(
                f"Ceph does not answer: an image could not be opened within {self._options.answer_deadline:g} s",
                next_step="look at ceph health detail, then serve the portal anew",
            ) from error

    def _serves_anything(self, server: TgtServer, exports: Sequence[Export]) -> bool:
        """Say whether a server that could not be filled is worth keeping, and end it if it is not.

        Each image in Ceph that tgtd fails to open costs it threads and descriptors for good.
        """
        if not _in_ceph(exports) or served(server.tgtd.targets()):
            return True
        self._end(server)
        return False

    def _open(self, server: TgtServer, portal: Portal, *, forwarded: bool) -> bool:
        """Let initiators reach a filled server, the right ones only; returns whether anything changed."""
        try:
            guarded = portal.namespace is not None and self._rights.let_in(
                portal.namespace, portal.port, portal.peer
            )
            opened = self._lead(server, portal) if forwarded else server.listen(portal)
        except (PortTaken, TargetError):
            if server.never_listened():
                self._end(server)
                server.forget()
            raise
        return guarded or opened

    def _lead(self, server: TgtServer, portal: Portal) -> bool:
        """Let a forwarder lead to a server; returns whether none did so far."""
        before = server.forwarder.process()
        if before is not None and server.is_led_to(portal):
            self._watch(portal.id, before)
            return False
        with self._guard:
            watched = before is not None and before.pid in self._watched
            self._watched -= {before.pid} if before else set()
        try:
            self._watch(portal.id, server.lead(portal))
        finally:
            if before is not None and watched and before.alive():  # the new one could not listen
                with self._guard:
                    self._watched.add(before.pid)
        return True

    def _end_forwarder_if_hung(self, server: TgtServer) -> bool:
        """End a forwarder that hangs, so that another one is started; tgtd goes on."""
        if not server.forwarder.hangs(deadline=self._options.answer_deadline):
            return False
        log.warning("the forwarder of %s does not answer", server.folder.name)
        server.forwarder.kill()
        return True

    def _close_images(self, server: TgtServer) -> None:
        """Let a server close its images in Ceph, or else they seem to be in use for half a minute longer."""
        try:
            for target in server.tgtd.targets():
                if any(lun.type == "rbd" for lun in target.luns):
                    take_apart(server.tgtd, target, set(), deadline=self._options.remove_deadline)
        except TargetError as error:
            log.warning("images of %s were not closed: %s", server.folder.name, error)

    def _end(self, server: TgtServer) -> None:
        """End a server so that its end surprises nobody."""
        self._forgive(server.process(), server.forwarder.process())
        server.kill()

    def _forgive(self, *processes: Process | None) -> None:
        """Let the end of processes surprise nobody."""
        with self._guard:
            self._watched -= {process.pid for process in processes if process is not None}

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


def _in_ceph(exports: Sequence[Export]) -> bool:
    return any(lun.backing.type == "rbd" for export in exports for lun in export.luns)


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
