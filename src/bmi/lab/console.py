"""A person's terminal on a node's serial line."""

import os
import select
import socket
import sys
import termios
import tty
from pathlib import Path

from bmi.errors import WrongState

ESCAPE = b"\x1d"  # Ctrl-], as telnet has it
_CHUNK = 4096


def attach(line: Path, log: Path) -> None:
    """Connect the terminal with a serial line, after what it said lately, until Ctrl-] is pressed.

    Raises:
        WrongState: The node is off.
    """
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(str(line))
        except OSError as error:
            raise WrongState(
                f"nothing is on the serial line {line}",
                next_step="switch the node on, or read its last words",
            ) from error
        sys.stdout.buffer.write(_tail(log))
        sys.stdout.flush()
        before = termios.tcgetattr(sys.stdin)
        tty.setraw(sys.stdin)
        try:
            _talk(connection)
        finally:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)


def _talk(connection: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([sys.stdin, connection], [], [])
        if connection in ready:
            said = connection.recv(_CHUNK)
            if not said:
                return
            os.write(sys.stdout.fileno(), said)
        if sys.stdin in ready:
            typed = os.read(sys.stdin.fileno(), _CHUNK)
            if not typed or ESCAPE in typed:
                return
            connection.sendall(typed)


def _tail(log: Path) -> bytes:
    try:
        return log.read_bytes()[-_CHUNK:]
    except FileNotFoundError:
        return b""
