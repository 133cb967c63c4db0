"""A node's serial line, as its management controller has it: listened to at any time, typed on when somebody types.

QEMU lets one client have the line. A person at `bmi lab console` is one, so that a controller does not stay on it:
what the node says is read from QEMU's own log of the line, and the line itself is taken only while somebody types.
"""

import os
import select
import socket
import threading
import time
from pathlib import Path
from typing import IO

from bmi.lab.node import VirtualNode

_POLL = 0.05  # seconds between two looks at the log
_CHUNK = 65536
_HELD = 5.0  # seconds for which the line is kept after the last byte that was typed
_STUCK = 1.0  # seconds for which the line may take nothing


class SerialLine:
    """One listener. It stays on the line while the node is off, and when it is switched on again."""

    def __init__(self, node: VirtualNode) -> None:
        self._node = node
        self._log: IO[bytes] | None = _opened(node.console_log)
        if self._log:
            self._log.seek(0, os.SEEK_END)
        self._keys = _Keys(node.console)

    def read(self, timeout: float) -> bytes:
        """Return what the node said, as it comes; nothing if it said nothing in this time (seconds)."""
        end = time.monotonic() + timeout
        while True:
            self._keys.let_go_if_idle()
            if said := self._next():
                return said
            if time.monotonic() >= end:
                return b""
            time.sleep(_POLL)

    def write(self, data: bytes) -> None:
        """Type something; it is lost while the node is off, or while somebody else is on the line."""
        self._keys.type(data)

    def close(self) -> None:
        """Listen no more."""
        self._keys.close()
        if self._log:
            self._log.close()

    def _next(self) -> bytes:
        said = self._log.read(_CHUNK) if self._log else b""
        if said or not self._replaced():
            return said
        if self._log:
            self._log.close()
        self._log = _opened(self._node.console_log)
        return self._log.read(_CHUNK) if self._log else b""

    def _replaced(self) -> bool:
        """Say whether the node has another log now: each start of the machine makes a new one."""
        try:
            now = self._node.console_log.stat()
        except FileNotFoundError:
            return False
        if self._log is None:
            return True
        mine = os.fstat(self._log.fileno())
        return (mine.st_dev, mine.st_ino) != (now.st_dev, now.st_ino) or now.st_size < self._log.tell()


class _Keys:
    """The way to the node: a connection to QEMU while somebody types."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._line: socket.socket | None = None
        self._used = 0.0
        self._guard = threading.Lock()

    def type(self, data: bytes) -> None:
        """Type something."""
        with self._guard:
            for _ in range(2):  # the line that is held may be that of the machine before
                line = self._line or self._take()
                if line is None:
                    return
                try:
                    self._throw_away(line)
                    line.sendall(data)
                except OSError:
                    self._let_go()
                    continue
                self._used = time.monotonic()
                return

    def let_go_if_idle(self) -> None:
        """Leave the line to others a while after the last byte; until then take what it says, which the log has."""
        with self._guard:
            if self._line is None:
                return
            try:
                self._throw_away(self._line)
            except OSError:
                self._let_go()
            if time.monotonic() - self._used > _HELD:
                self._let_go()

    def close(self) -> None:
        """Leave the line to others."""
        with self._guard:
            self._let_go()

    def _take(self) -> socket.socket | None:
        line = socket.socket(socket.AF_UNIX)
        line.settimeout(_STUCK)
        try:
            line.connect(str(self._path))
        except OSError:  # the node is off
            line.close()
            return None
        self._line = line
        return line

    def _let_go(self) -> None:
        if self._line is not None:
            self._line.close()
            self._line = None

    def _throw_away(self, line: socket.socket) -> None:
        """Read what the node said: it is in the log, and a line that nobody reads holds the machine up."""
        while select.select([line], [], [], 0)[0]:
            if not line.recv(_CHUNK):
                raise ConnectionResetError("the machine has ended")


def _opened(path: Path) -> IO[bytes] | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None
