"""Asks a forwarder whether it still does anything.

HAProxy answers on a socket of its own, whoever else keeps it busy: its limit of connections does not count there.
The socket is made by BMI and handed over, as the one that initiators connect to.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = "control"
_BACKLOG = 8  # connections that wait to be taken
_RETRY = 0.02  # seconds before another try to connect, while too many wait
_QUESTION = b"show info\n"


def listen(folder: Path) -> socket.socket:
    """Make the socket that a new forwarder is to answer on, in the place of an earlier one's."""
    listener = socket.socket(socket.AF_UNIX)
    try:
        (folder / _NAME).unlink(missing_ok=True)
        with _short(folder) as path:
            listener.bind(path)
        listener.listen(_BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def answers(folder: Path, *, deadline: float) -> bool:
    """Say whether a forwarder answers, or is not there at all.

    Args:
        folder: The forwarder's own.
        deadline: Seconds that it gets; one that is well takes a millisecond.
    """
    end = time.monotonic() + deadline
    while (left := end - time.monotonic()) > 0:
        with socket.socket(socket.AF_UNIX) as connection, _short(folder) as path:
            connection.settimeout(left)
            try:
                connection.connect(path)
                connection.sendall(_QUESTION)
                return bool(connection.recv(1))
            except BlockingIOError:  # the queue is full of others who wait
                time.sleep(_RETRY)
            except TimeoutError:
                return False
            except OSError:  # it has ended, or was started by a release that did not ask
                return True
    return False


@contextmanager
def _short(folder: Path) -> Iterator[str]:
    """Give a short name to the socket: its path has 107 bytes at the most (unix(7))."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{_NAME}"
    finally:
        os.close(descriptor)
