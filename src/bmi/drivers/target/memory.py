"""A target driver that only remembers what it was told, in a file: for tests, and for trying BMI out.

It behaves as a real one does, with what a test needs besides: a server can be killed or hang, a session planted.
"""

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from ipaddress import IPv4Address
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from bmi.drivers import Options, Outcome, Site, parse_options
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal, Removal, Session
from bmi.drivers.target.checks import check_exports, check_portal, fingerprint
from bmi.errors import BadRequest, PortTaken, TargetError


class MemoryTargetOptions(Options):
    """The `memory` target driver has no options."""


class _Session(BaseModel):
    initiator: str
    address: str
    id: int


class _Export(BaseModel):
    initiator: str
    username: str
    luns: list[tuple[int, str, str, bool]]  # number, backing type and path, readonly
    fingerprint: str
    sessions: list[_Session] = []


class _Server(BaseModel):
    address: IPv4Address
    port: int
    namespace: str | None
    peer: IPv4Address | None = None
    exports: dict[str, _Export] = {}
    last_session: int = 0
    hangs: bool = False


class _State(BaseModel):
    servers: dict[UUID, _Server] = {}


class MemoryTarget:
    """Remembers exports; see `bmi.drivers.target.Target`."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        parse_options(MemoryTargetOptions, options, driver="memory")
        self._folder = site.state_dir / "target-memory"
        self._callbacks: list[Callable[[UUID], None]] = []

    # --- the protocol ------------------------------------------------------------------------------------

    def serve(self, portal: Portal, exports: Sequence[Export]) -> Outcome:
        """Make sure that a portal serves at least these exports."""
        check_portal(portal)
        check_exports(exports)
        with self._changing() as state:
            before = state.model_copy(deep=True)
            _refuse_taken(state, portal)
            if portal.id in state.servers and state.servers[portal.id].hangs:
                del state.servers[portal.id]
            server = _start(state, portal)
            wanted = {export.iqn: _remembered(export) for export in exports}
            new = {
                iqn: export
                for iqn, export in wanted.items()
                if iqn not in server.exports or server.exports[iqn].fingerprint != export.fingerprint
            }
            _refuse_shared_usernames(server, new)
            server.exports |= new
            return Outcome.ALREADY if state == before else Outcome.DONE

    def remove(self, portal: UUID, iqn: str) -> Removal:
        """Take an export away, with its sessions."""
        with self._changing() as state:
            server = state.servers.get(portal)
            export = server.exports.pop(iqn, None) if server else None
            forced = server is not None and server.hangs
            if forced:
                del state.servers[portal]
        if export is None and not forced:
            return Removal(Outcome.ALREADY)
        sessions = export.sessions if export else []
        names = {session.address if forced else session.initiator for session in sessions}
        return Removal(Outcome.DONE, tuple(sorted(names)), forced)

    def exports(self, portal: UUID) -> list[Export]:
        """List what a portal serves, without what cannot be read back."""
        server = self._answering(portal)
        found = server.exports.items() if server else ()
        return [
            Export(
                iqn,
                export.initiator,
                export.username,
                password="",
                luns=tuple(Lun(number, Backing(type, path), ro) for number, type, path, ro in export.luns),
            )
            for iqn, export in found
        ]

    def sessions(self, portal: UUID) -> list[Session]:
        """List who is logged in at a portal; nobody if it does not run."""
        server = self._answering(portal)
        return [
            Session(iqn, session.initiator, session.address, session.id)
            for iqn, export in (server.exports.items() if server else ())
            for session in export.sessions
        ]

    def portals(self) -> list[UUID]:
        """List the portals whose server runs."""
        with self._changing() as state:
            return list(state.servers)

    def stop(self, portal: UUID) -> Outcome:
        """End a portal's server, with everything it serves."""
        with self._changing() as state:
            return Outcome.DONE if state.servers.pop(portal, None) else Outcome.ALREADY

    def end_if_hung(self, portal: UUID) -> bool:
        """End a portal's server that hangs; says whether there was one."""
        with self._changing() as state:
            server = state.servers.get(portal)
        if server is None or not server.hangs:
            return False
        self.kill(portal)
        return True

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        """Call this when a portal's server ended and nobody asked it to."""
        self._callbacks.append(call)

    def close(self) -> None:
        """Call nobody any more. What is remembered stays."""
        self._callbacks.clear()

    # --- more than the protocol, for tests ---------------------------------------------------------------

    def log_in(
        self, portal: UUID, iqn: str, address: str = "192.0.2.1", *, initiator: str | None = None
    ) -> Session:
        """Plant a session: of the initiator that an export lets in, unless another is named."""
        with self._changing() as state:
            server = state.servers[portal]
            server.last_session += 1
            export = server.exports[iqn]
            who = initiator or export.initiator
            export.sessions.append(_Session(initiator=who, address=address, id=server.last_session))
            return Session(iqn, who, address, server.last_session)

    def lets_through(self, portal: UUID, address: IPv4Address) -> bool:
        """Say whether somebody who comes from an address gets to a portal's server."""
        with self._changing() as state:
            return state.servers[portal].peer in (None, address)

    def kill(self, portal: UUID) -> None:
        """End a portal's server as a crash would, and tell those who asked."""
        with self._changing() as state:
            del state.servers[portal]
        for call in list(self._callbacks):
            call(portal)

    def hang(self, portal: UUID) -> None:
        """Let a portal's server run on and answer nobody."""
        with self._changing() as state:
            state.servers[portal].hangs = True

    # --- how ---------------------------------------------------------------------------------------------

    def _answering(self, portal: UUID) -> _Server | None:
        """Return a portal's server, if it runs.

        Raises:
            TargetError: It hangs.
        """
        with self._changing() as state:
            server = state.servers.get(portal)
        if server is not None and server.hangs:
            raise TargetError(f"the server of portal {portal} does not answer", next_step="serve it anew")
        return server

    @contextmanager
    def _changing(self) -> Iterator[_State]:
        """Give the state, alone on this host, and write it down if nothing went wrong."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        file, partial = self._folder / "state.json", self._folder / "state.part"
        lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            state = _State.model_validate_json(file.read_bytes()) if file.exists() else _State()
            yield state
            partial.write_text(state.model_dump_json())
            partial.rename(file)
        finally:
            os.close(lock)


def _remembered(export: Export) -> _Export:
    return _Export(
        initiator=export.initiator,
        username=export.username,
        luns=[(lun.number, lun.backing.type, lun.backing.path, lun.readonly) for lun in export.luns],
        fingerprint=fingerprint(export),
    )


def _start(state: _State, portal: Portal) -> _Server:
    """Return a portal's server, moved to the portal's address; one in another namespace is started anew."""
    server = state.servers.get(portal.id)
    if server is None or server.namespace != portal.namespace:
        server = _Server(address=portal.address, port=portal.port, namespace=portal.namespace)
        state.servers[portal.id] = server
    server.address, server.port, server.peer = portal.address, portal.port, portal.peer
    return server


def _refuse_taken(state: _State, portal: Portal) -> None:
    where = (portal.address, portal.port, portal.namespace)
    for id, server in state.servers.items():
        if id != portal.id and (server.address, server.port, server.namespace) == where:
            raise PortTaken(
                f"address {portal} is taken by the server of portal {id}",
                next_step="end that program, or let BMI listen on another address or port",
            )


def _refuse_shared_usernames(server: _Server, new: Mapping[str, _Export]) -> None:
    taken = {export.username: iqn for iqn, export in server.exports.items() if iqn not in new}
    for iqn, export in new.items():
        if export.username in taken:
            raise BadRequest(
                f"export {iqn} cannot be served: "
                f"the CHAP name {export.username} belongs to {taken[export.username]}",
                next_step="give every export of a portal a CHAP name of its own",
            )
