"""Asks and tells a network who has an IPv4 address (RFC 826, RFC 5227).

A gateway that takes over another's address must not take it from one that lives, and nodes that know the address
must learn at once which card has it now.
"""

import socket
import struct
import time
from ipaddress import IPv4Address

from bmi.netns import call_inside

_ETHERTYPE = 0x0806
_FRAME = struct.Struct("!6s6sHHHBBH6s4s6s4s")  # Ethernet header, then RFC 826 for Ethernet and IPv4
_REQUEST, _REPLY = 1, 2
_EVERYBODY = b"\xff" * 6
_NOBODY = bytes(6)
_ANY = bytes(4)

_PROBES = 3
_PROBE_INTERVAL = (
    0.2  # seconds; RFC 5227 waits longer, for switches that have just come up: ours carry traffic
)


def is_taken(namespace: str, interface: str, address: IPv4Address) -> bool:
    """Say whether another host on a network answers for an address. Takes 0.6 s if none does.

    Args:
        namespace: Network namespace of the interface.
        interface: An interface on the network.
        address: The address, which the interface itself must not have.

    Raises:
        OSError: There is no such interface.
    """

    def probe() -> bool:
        with _opened(interface) as connection:
            own = connection.getsockname()[4]
            for _ in range(_PROBES):
                connection.send(_frame(own, _REQUEST, _ANY, address.packed))
                if _answered(connection, own, address.packed, time.monotonic() + _PROBE_INTERVAL):
                    return True
        return False

    return call_inside(namespace, probe)


def announce(namespace: str, interface: str, address: IPv4Address) -> None:
    """Tell everybody on a network that an interface has an address now.

    Args:
        namespace: Network namespace of the interface.
        interface: The interface.
        address: The address.

    Raises:
        OSError: There is no such interface.
    """

    def tell() -> None:
        with _opened(interface) as connection:
            own = connection.getsockname()[4]
            # Both forms that hosts listen to: a request and an answer, each about the sender itself.
            for operation in (_REQUEST, _REPLY):
                connection.send(_frame(own, operation, address.packed, address.packed))

    call_inside(namespace, tell)


def _opened(interface: str) -> socket.socket:
    connection = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETHERTYPE))
    try:
        connection.bind((interface, _ETHERTYPE))
    except OSError:
        connection.close()
        raise
    return connection


def _frame(own: bytes, operation: int, sender: bytes, target: bytes) -> bytes:
    return _FRAME.pack(_EVERYBODY, own, _ETHERTYPE, 1, 0x0800, 6, 4, operation, own, sender, _NOBODY, target)


def _answered(connection: socket.socket, own: bytes, address: bytes, end: float) -> bool:
    """Wait until somebody else claims an address, or the time is over."""
    while (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            frame = connection.recv(1500)
        except TimeoutError:
            return False
        if len(frame) >= _FRAME.size:
            fields = _FRAME.unpack(frame[: _FRAME.size])
            if fields[8] != own and fields[9] == address:
                return True
    return False
