"""Leads initiators from a leg to a tgtd that is not there.

A tgtd that serves images in Ceph must be where Ceph can be reached, which is the host's own network namespace,
and initiators must not get there. HAProxy stands between: its listening socket belongs to the leg's namespace, the
process to the host's. It moves bytes and knows nothing of iSCSI. When it ends initiators lose their connection,
and come back.
"""

import errno
import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from bmi import processes
from bmi.drivers.target import Portal
from bmi.drivers.target import tgt_forwarder_control as control
from bmi.drivers.target.ports import NAMESPACES, connected, port_taken
from bmi.errors import CommandFailed, DeadlineExceeded, LegError, PortTaken, TargetError
from bmi.processes import Process
from bmi.rights import Rights
from bmi.wait import wait_until

_USER = "haproxy"  # whom Debian's package makes
_ROOM = Path("/var/lib/haproxy")  # folder without anything in it, from the same package
_CONNECTIONS = 128  # at a time; each costs memory here and in tgtd
_CONNECTIONS_OF_ONE = 16  # from one address; a node has one or two, and for a while those that it forgot
_SILENCE = 10  # seconds until somebody who connected must have said something
_BACKLOG = 128  # connections that wait to be taken
_START_DEADLINE = 10.0  # seconds; 40 ms on an idle machine
_POLL = 0.005  # seconds
_LOG_QUOTED = 300  # characters of the log's end that an error quotes
_ROUTE = "BMI_ROUTE"  # variable of the forwarder's environment that says where it leads, and from where
_FOLDER = "BMI_FOLDER"  # and this one, whose it is

# A node that lost its power says nothing. Without this its connections would add up; with it they end two minutes
# later, or as soon as the node has started again and knows nothing of them.
_SOCKET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_REUSEADDR, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),  # seconds
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
)
"""What accepted connections inherit from the listening socket."""

# Connections that are silent for 24 days end: HAProxy wants a limit, and this is about its highest.
_IDENTITY = f"""\
    user {_USER}
    group {_USER}
    chroot {_ROOM}"""
"""What only root can become; others stay who they are."""

_CONFIGURATION = f"""\
global
{{identity}}
    nbthread 1
    maxconn {_CONNECTIONS}
    tune.bufsize 65536
    stats socket fd@{{control}} level user
    stats timeout {_SILENCE}s
    stats maxconn 64
listen portal
    mode tcp
    bind fd@{{descriptor}}
    stick-table type ip size 1k expire 1h store conn_cur
    tcp-request connection track-sc0 src
    tcp-request connection reject if {{{{ sc0_conn_cur gt {_CONNECTIONS_OF_ONE} }}}}
    tcp-request inspect-delay {_SILENCE}s
    tcp-request content accept if {{{{ req.len gt 0 }}}}
    tcp-request content reject if WAIT_END
    option splice-auto
    timeout connect 5s
    timeout client 24d
    timeout server 24d
    server tgtd {{destination}}
"""


@dataclass(frozen=True)
class _Route:
    """From where to where a forwarder leads."""

    address: str
    port: int
    namespace: str
    inode: int
    """Of the namespace: another one may have its name by now."""
    destination: str


class Forwarder:
    """The forwarder of one portal, if it has one.

    Args:
        folder: The portal's own folder.
        rights: How to get into the portal's namespace.
    """

    def __init__(self, folder: Path, rights: Rights) -> None:
        self._folder = folder
        self._rights = rights
        self._record = folder / "forwarder.json"
        self._log = folder / "forwarder.log"
        self._configuration = folder / "forwarder.cfg"

    def known(self) -> bool:
        """Say whether the portal should have one, running or not."""
        return self._record.exists()

    def process(self) -> Process | None:
        """Return its process, if it runs."""
        return processes.recorded(self._record)

    def leads(self, portal: Portal, destination: str) -> bool:
        """Say whether it runs, and leads from a portal in its namespace of now to `ADDRESS:PORT`."""
        return self._route() == _route(portal, destination)

    def start(self, portal: Portal, destination: str) -> Process:
        """Lead from a portal to another address, and from nowhere else any more.

        Args:
            portal: Where to listen; its namespace must not be None.
            destination: Where to lead, as `ADDRESS:PORT` of the caller's own namespace.

        Raises:
            PortTaken: Another program listens on the portal's address. What was led goes on.
        """
        route = _route(portal, destination)
        now = self._route()
        if now is not None and (now.address, now.port, now.inode) == (route.address, route.port, route.inode):
            self.kill()
        with self._listener(portal) as listener:
            self.kill()
            return self._launch(listener, route)

    def peers(self) -> set[str]:
        """Return the addresses of those who are connected."""
        route = self._route()
        if route is None:
            return set()
        try:
            table = self._rights.tcp_table(route.namespace)
        except LegError:  # it has just been removed
            return set()
        return connected(table, route.address, route.port)

    def hangs(self, *, deadline: float) -> bool:
        """Say whether it runs and does not answer within so many seconds."""
        if self.process() is None or control.answers(self._folder, deadline=deadline):
            return False
        return self.process() is not None

    def kill(self) -> None:
        """End it, and all connections over it.

        Raises:
            TargetError: It is still there: it hangs in the kernel.
        """
        if process := self.process():
            _end(process)

    def kill_forgotten(self) -> bool:
        """End one that runs without a record, because BMI died right after it was started; says if there was one.

        Raises:
            TargetError: It is still there: it hangs in the kernel.
        """
        recorded = self.process()
        found = [process for process in _of_folder(self._folder) if process != recorded]
        for process in found:
            _end(process)
        return bool(found)

    def forget(self) -> None:
        """Remember no longer that the portal has one."""
        self._record.unlink(missing_ok=True)

    def _listener(self, portal: Portal) -> socket.socket:
        try:
            return self._listen(portal)
        except PortTaken:
            if not self.kill_forgotten():
                raise
            return self._listen(portal)

    def _listen(self, portal: Portal) -> socket.socket:
        """Listen on a portal's address inside its namespace."""
        try:
            listener = self._rights.socket_inside(portal.namespace, socket.AF_INET, socket.SOCK_STREAM)
        except LegError as error:
            raise TargetError(error.message, next_step=error.next_step) from error
        try:
            for level, option, value in _SOCKET_OPTIONS:
                listener.setsockopt(level, option, value)
            listener.bind((str(portal.address), portal.port))
            listener.listen(_BACKLOG)
        except OSError as error:
            listener.close()
            raise self._cannot_listen(portal, error) from error
        return listener

    def _cannot_listen(self, portal: Portal, error: OSError) -> PortTaken | TargetError:
        if error.errno == errno.EADDRINUSE:
            return port_taken(self._rights, portal)
        return TargetError(
            f"nothing can listen on {portal} in namespace {portal.namespace}: {os.strerror(error.errno or 0)}",
            next_step="bring the gateway's address on this network up",
        )

    def _launch(self, listener: socket.socket, route: _Route) -> Process:
        try:
            process = self._start(listener, route)
            wait_until(
                lambda: self._is_ready(process),
                deadline=_START_DEADLINE,
                what="haproxy to start",
                next_step=f"look into {self._log}",
                poll=_POLL,
            )
        except (CommandFailed, DeadlineExceeded) as error:
            raise TargetError(error.message, next_step=error.next_step) from error
        return process

    def _start(self, listener: socket.socket, route: _Route) -> Process:
        with control.listen(self._folder) as asked:
            self._configuration.write_text(
                _CONFIGURATION.format(
                    identity=_IDENTITY if os.geteuid() == 0 else "",
                    descriptor=listener.fileno(),
                    control=asked.fileno(),
                    destination=route.destination,
                )
            )
            return processes.start(
                ["haproxy", "-q", "-db", "-f", self._configuration],
                record=self._record,
                log=self._log,
                env={_ROUTE: json.dumps(asdict(route)), _FOLDER: str(self._folder)},
                pass_fds=[listener.fileno(), asked.fileno()],
            )

    def _is_ready(self, process: Process) -> bool:
        """Say whether it answers; it has given up root's rights by then, where it had them."""
        if not process.alive():
            raise TargetError(
                f"haproxy ended while it started: {self._log.read_text(errors='replace')[-_LOG_QUOTED:]}",
                next_step=f"mend what it complains about in {self._log}",
            )
        return control.answers(self._folder, deadline=_START_DEADLINE) and process.alive()

    def _route(self) -> _Route | None:
        """Read where it leads from its environment, which nothing can part from the process."""
        process = self.process()
        if process is None:
            return None
        try:
            return _Route(**json.loads(psutil.Process(process.pid).environ()[_ROUTE]))
        except (psutil.Error, KeyError, ValueError, TypeError):
            return None


def _of_folder(folder: Path) -> Iterator[Process]:
    for found in psutil.process_iter():
        with suppress(psutil.Error):
            if found.environ().get(_FOLDER) == str(folder) and (process := Process.of(found.pid)):
                yield process


def _end(process: Process) -> None:
    try:
        process.stop(kill=True)
    except DeadlineExceeded as error:
        raise TargetError(error.message, next_step=error.next_step) from error


def _route(portal: Portal, destination: str) -> _Route:
    if portal.namespace is None:
        raise AssertionError("a tgtd in the host's namespace listens by itself")
    try:
        inode = (NAMESPACES / portal.namespace).stat().st_ino
    except FileNotFoundError:
        inode = 0  # to listen will fail, and say it in words
    return _Route(str(portal.address), portal.port, portal.namespace, inode, destination)
