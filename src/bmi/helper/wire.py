"""How a call and its answer look: a length of four bytes, then JSON. Sockets travel beside the length (unix(7))."""

import json
import socket
import struct
from collections.abc import Sequence
from typing import Any

_LENGTH = struct.Struct("!I")
_FDS = 2  # at the most, in one message
MOST = 16 << 20  # bytes of a message


class Broken(Exception):
    """The other end sent what is no message, or nothing in time, or is gone."""


def send(connection: socket.socket, message: dict[str, Any], sockets: Sequence[socket.socket] = ()) -> None:
    """Send a message.

    Args:
        connection: To whom.
        message: What.
        sockets: Sockets that the other end gets too; they stay open here.

    Raises:
        Broken: The other end is gone, or takes too long.
    """
    content = json.dumps(message).encode()
    try:
        socket.send_fds(connection, [_LENGTH.pack(len(content))], [each.fileno() for each in sockets])
        connection.sendall(content)
    except OSError as error:
        raise Broken(str(error)) from error


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[socket.socket]]:
    """Return the next message, and the sockets that came with it.

    Raises:
        Broken: There is none.
    """
    sockets: list[socket.socket] = []
    try:
        head, fds, _flags, _address = socket.recv_fds(
            connection, _LENGTH.size, _FDS, socket.MSG_WAITALL | socket.MSG_CMSG_CLOEXEC
        )
        sockets = [socket.socket(fileno=fd) for fd in fds]
        if len(head) < _LENGTH.size:
            raise Broken("the other end is gone")
        (length,) = _LENGTH.unpack(head)
        if length > MOST:
            raise Broken(f"a message of {length} bytes")
        message = json.loads(_exactly(connection, length))
        if not isinstance(message, dict):
            raise Broken("a message that is no object")
    except (OSError, ValueError, RecursionError, Broken) as error:
        for each in sockets:
            each.close()
        raise error if isinstance(error, Broken) else Broken(str(error)) from error
    return message, sockets


def _exactly(connection: socket.socket, length: int) -> bytes:
    content = bytearray()
    while len(content) < length:
        chunk = connection.recv(min(length - len(content), 1 << 16))
        if not chunk:
            raise Broken("the other end is gone")
        content += chunk
    return bytes(content)
