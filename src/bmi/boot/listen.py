"""The HTTP servers that only nodes can reach: one per network, inside the leg's namespace.

Nodes may be hostile: their tenants have every right on them. So everything that one can make the server keep is
limited, and nothing that it sends is logged.
"""

import asyncio
import contextlib
import errno
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from typing import Any, TypeVar
from uuid import UUID

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from bmi.bodies import BodyLimit
from bmi.drivers import Outcome
from bmi.errors import BootServiceError, PortTaken
from bmi.netns import inode
from bmi.rights import OWN, Rights

T = TypeVar("T")


@dataclass(frozen=True)
class Limits:
    """What a node may make the server keep."""

    body: int = 64 * 1024
    """Bytes of a request's body."""
    head: int = 16 * 1024
    """Bytes of a request's line and headers."""
    head_seconds: float = 10
    """Until the first request's head must be there."""
    connection_seconds: float = 60
    """Until a connection must have ended, whatever goes on."""
    idle_seconds: int = 5
    """Between two requests."""
    connections: int = 256
    """At a time, on one network."""
    connections_per_node: int = 16
    """At a time, from one address."""
    grace_seconds: int = 2
    """Given to running requests when the server stops."""


class NodeHttp:
    """The HTTP servers of this gateway's networks, on a thread of their own. May be called from many threads."""

    def __init__(
        self, app_for: Callable[[UUID], ASGIApp], *, limits: Limits | None = None, rights: Rights = OWN
    ) -> None:
        """Say what answers; nothing is started.

        Args:
            app_for: Returns the application for a network.
            limits: What nodes may use.
            rights: How to get into legs' namespaces.
        """
        self._app_for = app_for
        self._rights = rights
        self._limits = limits or Limits()
        self._servers: dict[UUID, _Server] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()

    def serve(self, network: UUID, namespace: str | None, address: IPv4Address | str, port: int) -> Outcome:
        """Make a network's server listen at an address, and nowhere else.

        Args:
            network: The network.
            namespace: Name of the namespace that has the address; the host's own if None.
            address: The address.
            port: The port.

        Raises:
            PortTaken: Another program listens there.
            BootServiceError: The namespace does not have the address.
            LegError: There is no such namespace.
        """
        with self._lock:
            place = _Place(inode(namespace), str(address), port)
            server = self._servers.get(network)
            if server is not None and server.place == place and server.serves:
                return Outcome.ALREADY
            self.stop(network)
            listener = _listener(self._rights, namespace, place)
            try:
                server = _Server(self._app_for(network), place, self._limits)
                self._run(server.start(listener))
            except BaseException:
                listener.close()
                raise
            self._servers[network] = server
            return Outcome.DONE

    def stop(self, network: UUID) -> Outcome:
        """End a network's server; requests that run get a moment to end."""
        with self._lock:
            server = self._servers.pop(network, None)
            if server is None:
                return Outcome.ALREADY
            self._run(server.stop())
            return Outcome.DONE

    def serving(self) -> list[UUID]:
        """List the networks that have a server."""
        with self._lock:
            return [network for network, server in self._servers.items() if server.serves]

    def close(self) -> None:
        """End all servers and the thread."""
        with self._lock:
            servers, self._servers = list(self._servers.values()), {}
            if self._loop is None or self._thread is None:
                return
            self._run(_stop_all(servers))
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop, self._thread = None, None

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something on the thread of the servers, and wait for it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(
                target=_keep_running, args=(self._loop,), name="node-http", daemon=True
            )
            self._thread.start()
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


@dataclass(frozen=True)
class _Place:
    """Where a server listens. A namespace made anew has the old one's name, but is another."""

    namespace_inode: int
    address: str
    port: int


class _Server:
    """One network's server; its coroutines belong on the thread of the servers."""

    def __init__(self, app: ASGIApp, place: _Place, limits: Limits) -> None:
        self.place = place
        self._uvicorn = _Uvicorn(
            uvicorn.Config(
                BodyLimit(app, limits.body, _too_large),
                http=partial(_BoundedProtocol, limits, Counter()),  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                proxy_headers=False,  # a node would name itself another
                server_header=False,
                h11_max_incomplete_event_size=limits.head,
                timeout_keep_alive=limits.idle_seconds,
                timeout_graceful_shutdown=limits.grace_seconds,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def serves(self) -> bool:
        return self._task is not None and not self._task.done()

    async def start(self, listener: socket.socket) -> None:
        self._task = asyncio.create_task(self._uvicorn.serve(sockets=[listener]))
        ready = asyncio.create_task(self._uvicorn.ready.wait())
        await asyncio.wait({self._task, ready}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        self._uvicorn.should_exit = True
        if self._task is not None:
            await self._task
        for connection in list(self._uvicorn.server_state.connections):
            connection.transport.abort()


class _Uvicorn(uvicorn.Server):
    """A server that tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()


class _BoundedProtocol(H11Protocol):
    """A connection that cannot be kept open, and of which one node cannot have many."""

    def __init__(self, limits: Limits, open_from: Counter[str], **others: Any) -> None:
        super().__init__(**others)
        # Paths hold tokens. The server's own setting of this name is for the whole process, the tenants' API too.
        self.access_log = False
        self._limits = limits
        self._open_from = open_from
        """How many connections there are from each address."""
        self._timers: list[asyncio.TimerHandle] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        limits, peer = self._limits, self._peer()
        self._open_from[peer] += 1
        if (
            self._open_from.total() > limits.connections
            or self._open_from[peer] > limits.connections_per_node
        ):
            transport.abort()
            return
        self._timers = [
            self.loop.call_later(limits.head_seconds, self._abort_if_silent),
            self.loop.call_later(limits.connection_seconds, transport.abort),
        ]

    def connection_lost(self, exc: Exception | None) -> None:
        self._open_from.subtract([self._peer()])
        self._open_from += Counter()  # forgets addresses with none
        for timer in self._timers:
            timer.cancel()
        super().connection_lost(exc)

    def _peer(self) -> str:
        return self.client[0] if self.client else ""

    def _abort_if_silent(self) -> None:
        request: object = self.cycle
        if request is None:
            self.transport.abort()


def _too_large() -> PlainTextResponse:
    return PlainTextResponse("too large\n", status_code=413)


def _listener(rights: Rights, namespace: str | None, place: _Place) -> socket.socket:
    listener = rights.socket_inside(namespace, socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((place.address, place.port))
        listener.listen()
    except OSError as error:
        listener.close()
        where = f"{place.address}:{place.port} in namespace {namespace or 'of the host'}"
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"another program listens on {where}", next_step="end it, or choose another boot.http_port"
            ) from error
        raise BootServiceError(
            f"boot scripts cannot be served on {where}: {error.strerror}",
            next_step="run bmi doctor --repair, it gives legs their addresses",
        ) from error
    return listener


async def _stop_all(servers: list[_Server]) -> None:
    await asyncio.gather(*(server.stop() for server in servers))


def _keep_running(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    with contextlib.closing(loop):
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
