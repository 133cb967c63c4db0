"""A real SSH server before a double of a switch: echo, paging, latency, and faults on order."""

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paramiko

from tests.switches.box import Box, Cli

USER, PASSWORD = "bmi", "s3cret-of-the-switch"
_PAGE = 24


@dataclass
class Fault:
    """What goes wrong with lines that match."""

    pattern: str
    kind: str
    """drop (end the session before it is carried out), cut (after that), refuse, ignore, hang, flood, garble."""
    times: int = 10**9
    says: str = ""

    def hits(self, line: str) -> bool:
        if self.times and re.search(self.pattern, line):
            self.times -= 1
            return True
        return False


@dataclass
class Rack:
    """A switch that listens, and what was heard."""

    box: Box
    port: int
    key: Any
    latency: float = 0.0
    """Seconds that each command takes."""
    slow: dict[str, float] = field(default_factory=dict)
    """Seconds that commands of a beginning take."""
    faults: list[Fault] = field(default_factory=list)
    sessions: int = 0
    logins: list[tuple[str, bool]] = field(default_factory=list)
    heard: list[str] = field(default_factory=list)
    """Every line of every session."""
    open_sessions: int = 0
    user_key: Any = None
    """A public key that may log in."""
    mute: bool = False
    """Whether connections are taken, and then nothing is said."""
    deaf: bool = False
    """Whether a log-in succeeds, and then no terminal is given."""

    def options(self, folder: Path, dialect: str) -> dict[str, Any]:
        """Write the files that the driver wants, and return its options."""
        folder.mkdir(exist_ok=True)
        (folder / "password").write_text(f"{PASSWORD}\n")
        self.write_known_hosts(folder / "known_hosts")
        return {
            "host": "127.0.0.1",
            "port": self.port,
            "username": USER,
            "password_file": str(folder / "password"),
            "known_hosts": str(folder / "known_hosts"),
            "dialect": dialect,
            "ports": self.box.ports,
        }

    def write_known_hosts(self, path: Path) -> None:
        path.write_text(f"[127.0.0.1]:{self.port} {self.key.get_name()} {self.key.get_base64()}\n")


class _Door(paramiko.ServerInterface):  # type: ignore[misc]
    def __init__(self, rack: Rack) -> None:
        self.rack = rack

    def get_allowed_auths(self, username: str) -> str:
        return "password,publickey"

    def check_auth_password(self, username: str, password: str) -> int:
        good = (username, password) == (USER, PASSWORD)
        self.rack.logins.append((username, good))
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def check_auth_publickey(self, username: str, key: Any) -> int:
        good = username == USER and self.rack.user_key is not None and key == self.rack.user_key
        self.rack.logins.append((username, good))
        return int(paramiko.AUTH_SUCCESSFUL if good else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_pty_request(self, *_: object) -> bool:
        while self.rack.deaf:
            time.sleep(0.05)
        return True

    def check_channel_shell_request(self, channel: object) -> bool:
        return True


class _Terminal:
    """One session: lines in, echo and answers out."""

    def __init__(self, rack: Rack, channel: Any, cli: Cli) -> None:
        self._rack, self._channel, self._cli = rack, channel, cli
        self._buffer = ""
        self._after_return = False

    def run(self) -> None:
        self._send(self._cli.banner + self._cli.prompt)
        with suppress(EOFError, OSError, paramiko.SSHException):
            while True:
                self._answer(self._line())

    def _answer(self, line: str) -> None:
        rack = self._rack
        if take := self._cli.secretly:
            self._cli.secretly = None
            self._send(f"\n{take(line)}{self._cli.prompt}")
            return
        self._send(f"{line}\n")
        if line.strip():
            rack.heard.append(line)
        fault = next((fault for fault in rack.faults if fault.hits(line)), None)
        kind = fault.kind if fault else ""
        if kind == "drop":
            raise EOFError
        if kind == "hang":
            while not self._channel.closed:
                time.sleep(0.02)
            raise EOFError
        if kind == "flood":
            while True:
                self._channel.sendall(b"x" * 65536)
        if line.strip():
            seconds = next(
                (slow for begin, slow in rack.slow.items() if line.startswith(begin)), rack.latency
            )
            time.sleep(seconds)
        if fault and kind in ("refuse", "garble"):
            said = fault.says
        elif kind == "ignore":
            said = ""
        else:
            with rack.box.lock:
                said = self._cli.do(line)
                rack.box.note()
        if kind == "cut":
            raise EOFError
        self._print(said)
        self._send("Password: " if self._cli.secretly else self._cli.prompt)

    def _print(self, said: str) -> None:
        lines = said.split("\n")
        if self._cli.paging and len(lines) > _PAGE:
            self._send("\n".join(lines[:_PAGE]) + "\n--More--")
            while self._character() != " ":
                pass
            lines = lines[_PAGE:]
        text = "\n".join(lines)
        self._send(text if not text or text.endswith("\n") else f"{text}\n")

    def _line(self) -> str:
        line = ""
        while True:
            letter = self._character()
            if letter == "\n" and self._after_return:
                self._after_return = False
                continue
            self._after_return = letter == "\r"
            if letter in "\r\n":
                return line
            line += letter

    def _character(self) -> str:
        if not self._buffer:
            data = self._channel.recv(4096)
            if not data:
                raise EOFError
            self._buffer = data.decode()
        letter, self._buffer = self._buffer[0], self._buffer[1:]
        return letter

    def _send(self, text: str) -> None:
        self._channel.sendall(text.replace("\n", "\r\n").encode())


@contextmanager
def listening(box: Box, key: Any = None) -> Iterator[Rack]:
    """Have a switch listen on loopback, until the end."""
    box.note()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        rack = Rack(box, listener.getsockname()[1], key or paramiko.ECDSAKey.generate())
        transports: list[Any] = []
        thread = threading.Thread(target=_accept, args=(rack, listener, transports), daemon=True)
        thread.start()
        try:
            yield rack
        finally:
            rack.mute = rack.deaf = False
            listener.shutdown(socket.SHUT_RDWR)
            thread.join(10)
            for transport in transports:
                transport.close()


def _accept(rack: Rack, listener: socket.socket, transports: list[Any]) -> None:
    with suppress(OSError):
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(rack, connection, transports), daemon=True).start()


def _serve(rack: Rack, connection: socket.socket, transports: list[Any]) -> None:
    if rack.mute:
        while rack.mute:
            time.sleep(0.02)
        connection.close()
        return
    transport = paramiko.Transport(connection)
    transports.append(transport)
    transport.add_server_key(rack.key)
    with suppress(EOFError, OSError, paramiko.SSHException):
        transport.start_server(server=_Door(rack))
        channel = transport.accept(30)
        if channel is not None:
            rack.sessions += 1
            rack.open_sessions += 1
            try:
                _Terminal(rack, channel, rack.box.login()).run()
            finally:
                rack.open_sessions -= 1
    transport.close()
