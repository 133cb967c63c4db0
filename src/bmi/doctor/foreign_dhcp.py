"""Asks a network for an address (RFC 2131), to hear whether a DHCP server answers that is not BMI's.

BMI's own servers answer only cards that they know, and this asks for a card that nobody has. So whoever offers an
address is somebody else.
"""

import secrets
import select
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from bmi.rights import Rights

LISTEN = 4.0  # seconds; dnsmasq looks for 3 s whether somebody has an address before it offers it
_AGAIN = 0.5  # seconds until the question is sent again, for a frame that was lost

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_BROADCAST = 0x8000
_MESSAGE_TYPE, _SERVER, _END, _PAD = 53, 54, 255, 0
_DISCOVER, _OFFER = 1, 2
_SERVER_PORT, _CLIENT_PORT = 67, 68
_UDP = 17


@dataclass(frozen=True)
class Offer:
    """What a DHCP server offered."""

    server: IPv4Address
    address: IPv4Address
    mac: str
    """Of the card that the offer came from."""


def offers(rights: Rights, namespace: str, interface: str, *, seconds: float = LISTEN) -> list[Offer]:
    """Ask on an interface, and return who offered something, each server once.

    Args:
        rights: How to get into the namespace.
        namespace: Network namespace of the interface.
        interface: An interface on the network.
        seconds: How long to listen.

    Raises:
        LegError: There is no such namespace.
        OSError: There is no such interface.
    """
    wire, asking = rights.dhcp_sockets(namespace, interface)
    with wire, asking:
        return _ask(wire, asking, seconds)


def _ask(wire: socket.socket, asking: socket.socket, seconds: float) -> list[Offer]:
    number = secrets.randbits(32)
    # The second lowest bit of the first octet says that no vendor gave it (IEEE 802, 8.4.2).
    card = b"\x02" + secrets.token_bytes(5)
    found: dict[tuple[IPv4Address, str], Offer] = {}
    end, again = time.monotonic() + seconds, 0.0
    sent = 0
    while (left := end - time.monotonic()) > 0:
        if sent < 2 and time.monotonic() >= again:
            asking.sendto(_question(number, card), ("255.255.255.255", _SERVER_PORT))
            sent, again = sent + 1, time.monotonic() + _AGAIN
        if not select.select([wire], [], [], min(left, _AGAIN))[0]:
            continue
        offer = _offer(wire.recv(2048), number)
        if offer is not None:
            found[offer.server, offer.mac] = offer
    return list(found.values())


def _question(number: int, card: bytes) -> bytes:
    none = bytes(4)
    header = _HEADER.pack(
        1, 1, 6, 0, number, 0, _BROADCAST, none, none, none, none, card, b"", b"", _COOKIE
    )  # fmt: skip
    return header + bytes([_MESSAGE_TYPE, 1, _DISCOVER, _END])


def _offer(frame: bytes, number: int) -> Offer | None:
    """Read a frame; None if it is no answer to our question. Whatever stands in it, it must not raise."""
    ip = frame[14:]
    if len(ip) < 20 or ip[9] != _UDP:
        return None
    udp = ip[(ip[0] & 0x0F) * 4 :]
    if len(udp) < 8 or struct.unpack("!HH", udp[:4]) != (_SERVER_PORT, _CLIENT_PORT):
        return None
    data = udp[8:]
    if len(data) < _HEADER.size or data[0] != 2 or data[4:8] != struct.pack("!I", number):
        return None
    options = dict(_options(data[_HEADER.size :]))
    if options.get(_MESSAGE_TYPE) != bytes([_OFFER]):
        return None
    server = options.get(_SERVER, b"")
    return Offer(
        server=IPv4Address(server if len(server) == 4 else ip[12:16]),
        address=IPv4Address(data[16:20]),
        mac=frame[6:12].hex(":"),
    )


def _options(rest: bytes) -> Iterator[tuple[int, bytes]]:
    while len(rest) > 1 and rest[0] != _END:
        if rest[0] == _PAD:
            rest = rest[1:]
            continue
        yield rest[0], rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
