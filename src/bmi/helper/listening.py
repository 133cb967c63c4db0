"""The helper's socket, and who may ask there."""

import os
import pwd
import socket
import struct
from pathlib import Path

from bmi.errors import PortTaken, SettingsInvalid

_BACKLOG = 128  # callers that wait to be let in
_FIRST_FD = 3  # of sockets that the service manager hands over (sd_listen_fds(3))
_CREDENTIALS = struct.Struct("=iII")  # struct ucred of unix(7): pid, uid, gid
_ANSWER = 10.0  # seconds that another helper gets to take a call


def user_id(name: str) -> int:
    """Return a user's number, by name or number.

    Raises:
        SettingsInvalid: There is no such user.
    """
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError as error:
        raise SettingsInvalid(
            f"setting helper.user: there is no user {name}", next_step="make it, or name another one"
        ) from error


def listen(path: Path, uid: int) -> socket.socket:
    """Return the socket that the service manager hands over, or make it, for one user alone.

    Raises:
        PortTaken: Another helper answers there, or it cannot be made.
    """
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=_FIRST_FD)
    if _answers(path):
        raise PortTaken(
            f"another helper answers at {path}", next_step="end it, or choose another helper.socket"
        )
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        os.chown(path, uid, -1)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise PortTaken(
            f"the helper cannot listen at {path}: {error.strerror}", next_step="choose another helper.socket"
        ) from error
    return listener


def caller(connection: socket.socket) -> tuple[int, int]:
    """Return the process and the user at the other end, as the kernel knows them."""
    found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(found)
    return pid, uid


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_ANSWER)
        try:
            asking.connect(str(path))
        except OSError:
            return False
    return True
