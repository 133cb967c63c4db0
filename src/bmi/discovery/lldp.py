"""Reads what a switch says of itself (LLDP, IEEE 802.1AB-2016, clause 8). Anybody can send such frames."""

from collections.abc import Iterator
from ipaddress import ip_address

from bmi.api.hardware import Neighbour

_ETHERTYPE = b"\x88\xcc"
_VLAN_TAG = b"\x81\x00"
_HEAD = 12  # bytes of the two MAC addresses before it
_KEPT = 100  # characters of each name

_END, _CHASSIS, _PORT, _PORT_DESCRIPTION, _SYSTEM_NAME = 0, 1, 2, 4, 5
_CHASSIS_MAC, _CHASSIS_ADDRESS = 4, 5  # subtypes, table 8-2
_PORT_MAC, _PORT_ADDRESS = 3, 4  # subtypes, table 8-3


def parse(frame: bytes) -> Neighbour | None:
    """Return who sent a frame, or None if it is no whole LLDP frame.

    Args:
        frame: From the destination address on; it may be cut after the first elements.
    """
    start = _HEAD
    if frame[start : start + 2] == _VLAN_TAG:
        start += 4
    if frame[start : start + 2] != _ETHERTYPE:
        return None
    found: dict[int, bytes] = {}
    for kind, value in _elements(frame[start + 2 :]):
        found.setdefault(kind, value)
    if not found.get(_CHASSIS) or not found.get(_PORT):
        return None
    return Neighbour(
        switch=_text(found.get(_SYSTEM_NAME, b"")),
        chassis=_id(found[_CHASSIS], mac=_CHASSIS_MAC, address=_CHASSIS_ADDRESS),
        port=_id(found[_PORT], mac=_PORT_MAC, address=_PORT_ADDRESS),
        description=_text(found.get(_PORT_DESCRIPTION, b"")),
    )


def printable(text: str, kept: int) -> str:
    """Return a text without control characters, surrounding blanks and what is too long."""
    return "".join(character for character in text if character.isprintable()).strip()[:kept].strip()


def _elements(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Go through the elements: 7 bits of kind, 9 bits of length (8.4)."""
    while len(data) >= 2:
        head = int.from_bytes(data[:2], "big")
        kind, length = head >> 9, head & 0x1FF
        if kind == _END or len(data) < 2 + length:
            return
        yield kind, data[2 : 2 + length]
        data = data[2 + length :]


def _id(value: bytes, *, mac: int, address: int) -> str:
    subtype, content = value[0], value[1:]
    if subtype == mac and len(content) == 6:
        return content.hex(":")
    if subtype == address and content[:1] in (b"\x01", b"\x02") and len(content) in (5, 17):
        return str(ip_address(content[1:]))
    return _text(content)


def _text(content: bytes) -> str:
    return printable(content.decode(errors="replace"), _KEPT)
