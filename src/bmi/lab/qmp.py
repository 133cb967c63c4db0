"""QMP: what a running QEMU takes orders by (docs/interop/qmp-spec of QEMU)."""

import json
import socket
import struct
from io import BufferedReader
from pathlib import Path
from typing import Any

from bmi.errors import CommandFailed
from bmi.processes import Process

_ANSWER_DEADLINE = 10.0  # seconds; QEMU answers in a millisecond unless the host is overloaded


def execute(path: Path, command: str) -> None:
    """Make a QEMU carry out a command that takes no arguments.

    Args:
        path: Unix socket of its monitor.
        command: Name of the command, such as `system_reset`.

    Raises:
        CommandFailed: No QEMU answers on the socket, or it refuses.
    """
    try:
        with _connected(path) as client, client.makefile("rb") as answers:
            _read(answers)  # the greeting
            for order in "qmp_capabilities", command:
                client.sendall(json.dumps({"execute": order}).encode() + b"\n")
                _await_return(answers, order)
    except OSError as error:
        raise CommandFailed(
            f"QEMU does not answer {command} on {path}: {error.strerror or error}",
            next_step="look at the node's qemu.log",
        ) from error


def greets(path: Path) -> bool:
    """Say whether a QEMU has come up so far that it takes orders."""
    try:
        with _connected(path) as client, client.makefile("rb") as answers:
            return "QMP" in _read(answers)
    except OSError:
        return False


def listens(path: Path) -> bool:
    """Say whether a QEMU holds the socket, busy or not."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.setblocking(False)
        try:
            client.connect(str(path))
        except BlockingIOError:  # others wait in line already
            return True
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True


def owner(path: Path) -> Process | None:
    """Return the QEMU that holds the socket (SO_PEERCRED, unix(7))."""
    try:
        with _connected(path) as client:
            credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    except OSError:
        return None
    pid, _, _ = struct.unpack("3i", credentials)
    return Process.of(pid)


def _connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # QEMU serves one client at a time. Python's own time limit would fail at once where others wait in line.
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", int(_ANSWER_DEADLINE), 0))
        client.connect(str(path))
        client.settimeout(_ANSWER_DEADLINE)
    except BaseException:
        client.close()
        raise
    return client


def _await_return(answers: BufferedReader, command: str) -> None:
    """Pass over events until the command has returned."""
    while "return" not in (answer := _read(answers)):
        if "error" in answer:
            raise CommandFailed(
                f"QEMU refuses {command}: {answer['error'].get('desc')}",
                next_step="look at the node's qemu.log",
            )


def _read(answers: BufferedReader) -> dict[str, Any]:
    line = answers.readline()
    if not line:
        raise ConnectionResetError("QEMU closed the connection")
    message: dict[str, Any] = json.loads(line)
    return message
