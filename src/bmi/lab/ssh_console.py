"""The SSH service of a lab node's management controller: a port that leads to the node's serial line."""

import hmac
import logging
import socket
import threading
from contextlib import suppress
from pathlib import Path

import paramiko

from bmi.errors import PortTaken
from bmi.lab.node import VirtualNode
from bmi.lab.serial_line import SerialLine

logger = logging.getLogger(__name__)

_LOG_IN = 10.0  # seconds for which somebody may be on the port without having logged in
_LISTEN = 0.5  # seconds of one wait for what the node says
_CHUNK = 4096


class SshConsole:
    """The console port of one node: one session at a time, as real controllers have it.

    Args:
        node: The node.
        username: Name of the controller's only user.
        password: The user's password.
        host: Address to listen on.
        port: TCP port; 0 takes any that is free.
        key: File of the host key; made when needed.

    Raises:
        PortTaken: Another program listens there.
    """

    def __init__(
        self, node: VirtualNode, username: str, password: str, *, host: str, port: int, key: Path
    ) -> None:
        self._node = node
        self._user = _User(username, password)
        self._key = host_key(key)
        self._busy = threading.Lock()
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind((host, port))
        except OSError as failure:
            self._listener.close()
            raise PortTaken(
                f"the console of {node.spec.name} cannot listen on {host}:{port}: {failure.strerror}",
                next_step="end the program that listens there, or give the lab other ports",
            ) from failure
        self._listener.listen()

    @property
    def port(self) -> int:
        """TCP port."""
        port: int = self._listener.getsockname()[1]
        return port

    def start(self) -> None:
        """Begin to answer."""
        threading.Thread(target=self._accept, name=f"ssh-{self._node.spec.name}", daemon=True).start()

    def close(self) -> None:
        """Answer no more; sessions end with the process."""
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                line, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(line,), daemon=True).start()

    def _serve(self, line: socket.socket) -> None:
        transport = paramiko.Transport(line)
        transport.add_server_key(self._key)
        session = _Session(self._user, self._busy)
        try:
            transport.start_server(server=session)
            channel = transport.accept(_LOG_IN)
            if channel is not None:
                self._connect(channel)
        except (OSError, EOFError, paramiko.SSHException) as failure:
            logger.info("%s: console: %s", self._node.spec.name, failure)
        finally:
            transport.close()
            if session.has_line:
                self._busy.release()

    def _connect(self, channel: paramiko.Channel) -> None:
        """Let a client listen and type."""
        node = SerialLine(self._node)
        try:
            typing = threading.Thread(target=_type, args=(channel, node), daemon=True)
            typing.start()
            while typing.is_alive():
                if said := node.read(_LISTEN):
                    channel.sendall(said)
        finally:
            channel.close()
            node.close()


class _User:
    """The only one who is let in."""

    def __init__(self, name: str, password: str) -> None:
        self._name = name
        self._password = password

    def is_who(self, name: str, password: str) -> bool:
        """Say whether these are his name and password."""
        right_name = hmac.compare_digest(name.encode(), self._name.encode())
        return hmac.compare_digest(password.encode(), self._password.encode()) and right_name


class _Session(paramiko.ServerInterface):  # type: ignore[misc]  # paramiko has no types
    """What a client may ask for: one channel with a terminal and a shell, which is the serial line."""

    def __init__(self, user: _User, busy: threading.Lock) -> None:
        self._user = user
        self._busy = busy
        self.has_line = False
        """Whether this session is the one that the controller gives."""

    def get_allowed_auths(self, username: str) -> str:
        """Say how one logs in."""
        return "password"

    def check_auth_password(self, username: str, password: str) -> int:
        """Let the user in."""
        return self._answer(
            self._user.is_who(username, password), paramiko.AUTH_SUCCESSFUL, paramiko.AUTH_FAILED
        )

    def check_channel_request(self, kind: str, chanid: int) -> int:
        """Open one session, unless another client has it, and nothing that leads elsewhere."""
        if kind != "session" or self.has_line:
            refused: int = paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED
            return refused
        self.has_line = self._busy.acquire(blocking=False)
        return self._answer(self.has_line, paramiko.OPEN_SUCCEEDED, paramiko.OPEN_FAILED_RESOURCE_SHORTAGE)

    def check_channel_pty_request(self, *_: object) -> bool:
        """Pretend to have a terminal."""
        return True

    def check_channel_shell_request(self, channel: object) -> bool:
        """Take the serial line for a shell."""
        return True

    @staticmethod
    def _answer(condition: bool, yes: int, no: int) -> int:
        return yes if condition else no


def _type(channel: paramiko.Channel, node: SerialLine) -> None:
    """Give the node what the client types, until it leaves."""
    with suppress(OSError, EOFError):
        while typed := channel.recv(_CHUNK):
            node.write(typed)


def host_key(path: Path) -> paramiko.PKey:
    """Return a controller's host key, which stays the same for good."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        part.unlink(missing_ok=True)
        paramiko.ECDSAKey.generate().write_private_key_file(str(part))  # mode 0600
        part.rename(path)
    return paramiko.ECDSAKey.from_private_key_file(str(path))
