"""Asks a TFTP server whether it is there (RFC 1350)."""

import socket
import time
from ipaddress import IPv4Address

from bmi.rights import OWN, Rights

_PORT = 69
_REQUEST = b"\0\x01\0\0"
"""A read request without a name and a mode. It is refused at once, and nothing is read for it."""
_PAUSE = 1.0  # seconds until it is asked once more: a busy server may lose a datagram


def answers(namespace: str | None, address: IPv4Address, *, deadline: float, rights: Rights = OWN) -> bool:
    """Say whether a server sends anything back.

    Args:
        namespace: Name of the namespace that it is asked from; the caller's own if None.
        address: Where it listens.
        deadline: Seconds that it gets.
        rights: How to get into the namespace.

    Raises:
        LegError: There is no such namespace.
        OSError: The address cannot be reached.
    """
    end = time.monotonic() + deadline
    with rights.socket_inside(namespace, socket.AF_INET, socket.SOCK_DGRAM) as wire:
        while (left := end - time.monotonic()) > 0:
            wire.settimeout(min(left, _PAUSE))
            wire.sendto(_REQUEST, (str(address), _PORT))
            try:
                wire.recvfrom(1024)
            except TimeoutError:
                continue
            return True
    return False
