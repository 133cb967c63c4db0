"""What is taken for an offer; how networks are asked is in tests/integration/test_doctor.py."""

import random
import struct
from ipaddress import IPv4Address

import pytest

from bmi.doctor.foreign_dhcp import _HEADER, Offer, _offer

NUMBER = 0x01020304
NONE = bytes(4)


def frame(
    *, kind: int = 2, number: int = NUMBER, server: bytes | None = b"\x0a\0\0\x42", cut: int = 0
) -> bytes:
    address = IPv4Address("10.0.0.100").packed
    header = _HEADER.pack(
        2, 1, 6, 0, number, 0, 0, NONE, address, NONE, NONE, bytes(16), b"", b"", b"\x63\x82\x53\x63"
    )
    options = bytes([0, 53, 1, kind]) + (bytes([54, len(server)]) + server if server else b"") + b"\xff"
    dhcp = header + options
    udp = struct.pack("!HHHH", 67, 68, 8 + len(dhcp), 0) + dhcp
    ip = bytes([0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0]) + IPv4Address("10.0.0.9").packed + b"\xff" * 4
    whole = b"\xff" * 6 + bytes.fromhex("525400666666") + b"\x08\0" + ip + udp
    return whole[: len(whole) - cut]


def test_an_offer_tells_the_server_the_address_and_the_card() -> None:
    found = Offer(IPv4Address("10.0.0.66"), IPv4Address("10.0.0.100"), "52:54:00:66:66:66")
    assert _offer(frame(), NUMBER) == found


def test_a_server_that_does_not_name_itself_is_known_by_its_address() -> None:
    offer = _offer(frame(server=None), NUMBER)
    assert offer is not None
    assert offer.server == IPv4Address("10.0.0.9")


@pytest.mark.parametrize(
    "other", [frame(kind=5), frame(number=7), frame().replace(struct.pack("!HH", 67, 68), b"\0\x35\0\x44")]
)
def test_anything_else_is_none(other: bytes) -> None:
    assert _offer(other, NUMBER) is None


def test_no_frame_makes_it_fail() -> None:
    for cut in range(len(frame())):
        _offer(frame(cut=cut), NUMBER)
    chance = random.Random(1)
    for _ in range(2000):
        spoiled = bytearray(frame())
        for _ in range(8):
            spoiled[chance.randrange(len(spoiled))] = chance.randrange(256)
        _offer(bytes(spoiled), NUMBER)
