"""QMP: what a running QEMU takes orders by (docs/interop/qmp-spec of QEMU)."""

import json
import socket
from pathlib import Path
from typing import IO, Any

from bmi.errors import CommandFailed

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
        with _connected(path) as client, client.makefile("rwb") as stream:
            _read(stream)  # the greeting
            _ask(stream, "qmp_capabilities")
            _ask(stream, command)
    except OSError as error:
        raise CommandFailed(
            f"QEMU does not answer {command} on {path}: {error.strerror or error}",
            next_step="look at the node's qemu.log",
        ) from error


def greets(path: Path) -> bool:
    """Say whether a QEMU has come up so far that it takes orders."""
    try:
        with _connected(path) as client, client.makefile("rb") as stream:
            return "QMP" in _read(stream)
    except OSError:
        return False


def listens(path: Path) -> bool:
    """Say whether a QEMU holds the socket, busy or not."""
    try:
        with _connected(path):
            return True
    except (FileNotFoundError, ConnectionRefusedError):
        return False
    except TimeoutError:
        return True


def _connected(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(_ANSWER_DEADLINE)
    try:
        client.connect(str(path))
    except BaseException:
        client.close()
        raise
    return client


def _ask(stream: IO[bytes], command: str) -> None:
    stream.write(json.dumps({"execute": command}).encode() + b"\n")
    stream.flush()
    while "return" not in (answer := _read(stream)):
        if "error" in answer:
            raise CommandFailed(
                f"QEMU refuses {command}: {answer['error'].get('desc')}",
                next_step="look at the node's qemu.log",
            )


def _read(stream: IO[bytes]) -> dict[str, Any]:
    line = stream.readline()
    if not line:
        raise ConnectionResetError("QEMU closed the connection")
    message: dict[str, Any] = json.loads(line)
    return message
