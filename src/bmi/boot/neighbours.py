"""Which card is behind an address, as the kernel learned it when it answered (arp(7))."""

import errno
import fcntl
import socket
import struct
from ipaddress import IPv4Address

from bmi.drivers.leg import Leg
from bmi.rights import Rights

_SIOCGARP = 0x8954
_ARPREQ = struct.Struct("=HH4s8x H6s8x i 16x 16s")  # address, card, flags, mask, interface
_COMPLETE = 0x02


def card_of(rights: Rights, leg: Leg, address: IPv4Address) -> str | None:
    """Return the MAC address of the card that has an address on a leg's network; None if the kernel knows none.

    Args:
        rights: How to get into the leg's namespace.
        leg: The leg.
        address: The address.

    Raises:
        LegError: There is no such leg.
    """
    asked = _ARPREQ.pack(socket.AF_INET, 0, address.packed, 0, b"", 0, leg.interface.encode())
    with rights.socket_inside(leg.namespace, socket.AF_INET, socket.SOCK_DGRAM) as wire:
        try:
            found = fcntl.ioctl(wire, _SIOCGARP, asked)
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENODEV):
                return None
            raise
    _family, _port, _address, _kind, card, flags, _interface = _ARPREQ.unpack(found)
    return card.hex(":") if flags & _COMPLETE else None
