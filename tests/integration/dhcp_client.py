"""A DHCP client (RFC 2131) that speaks for any card, as any kind of client, over one interface."""

import secrets
import socket
import struct
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from bmi.netns import socket_inside

DISCOVER, OFFER, REQUEST, DECLINE, ACK, NAK = 1, 2, 3, 4, 5, 6

_HEADER = struct.Struct("!BBBBIHH4s4s4s4s16s64s128s4s")
_COOKIE = b"\x63\x82\x53\x63"
_BROADCAST = 0x8000
ASKED_FOR = bytes([1, 3, 6, 12, 15, 26, 28, 51, 54, 66, 67])  # netmask, router, DNS, name ... boot file

Options = dict[int, bytes]

IPXE: Options = {175: b"\xb1\x01\x01", 77: b"iPXE", 60: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0"}
BIOS: Options = {60: b"PXEClient:Arch:00000:UNDI:002001", 93: b"\0\0"}
UEFI: Options = {60: b"PXEClient:Arch:00007:UNDI:003016", 93: b"\0\7"}
SYSTEM: Options = {60: b"some operating system"}


@dataclass(frozen=True)
class Answer:
    """What the server sent."""

    kind: int
    address: IPv4Address
    next_server: IPv4Address
    options: Options = field(hash=False)
    header: bytes = b""
    """The packet before its options."""

    def text(self, option: int) -> str | None:
        """Return an option as text."""
        return self.options[option].rstrip(b"\0").decode() if option in self.options else None

    @property
    def file(self) -> str:
        """What the packet's own field for the boot file says (RFC 2131, figure 1)."""
        return self.header[108:236].split(b"\0")[0].decode()

    @property
    def boot_file(self) -> str | None:
        return self.text(67)

    @property
    def hostname(self) -> str | None:
        return self.text(12)


@dataclass(frozen=True)
class DhcpClient:
    """Sends from one interface, which needs no address."""

    namespace: str
    interface: str

    def ask(
        self,
        mac: str,
        kind: int,
        options: Options | None = None,
        *,
        timeout: float = 2.0,
    ) -> Answer | None:
        """Send one message and return the answer, or None if there is none.

        Args:
            mac: The card that asks.
            kind: DISCOVER or REQUEST.
            options: Options beside the kind and the list of what is asked for.
            timeout: Seconds to wait for the answer.
        """
        xid = secrets.token_bytes(4)
        message = packet(xid, mac, {53: bytes([kind]), 55: ASKED_FOR, **(options or {})})
        with socket_inside(self.namespace, socket.AF_INET, socket.SOCK_DGRAM) as wire:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, self.interface.encode())
            wire.bind(("", 68))
            wire.settimeout(timeout)
            wire.sendto(message, ("255.255.255.255", 67))
            try:
                while (data := wire.recv(4096))[4:8] != xid:
                    pass
            except TimeoutError:
                return None
        return parse(data)

    def boot(self, mac: str, options: Options | None = None, *, timeout: float = 2.0) -> Answer | None:
        """Get an address, by offer and request, and return the final answer, or None if nobody answers."""
        offer = self.ask(mac, DISCOVER, options, timeout=timeout)
        if offer is None:
            return None
        assert offer.kind == OFFER
        chosen = {50: offer.address.packed, 54: offer.options[54]}
        return self.ask(mac, REQUEST, {**(options or {}), **chosen}, timeout=timeout)


def packet(xid: bytes, mac: str, options: Options) -> bytes:
    """Return a client's message, but for what every one has: a list of what is asked for."""
    (number,) = struct.unpack("!I", xid)
    none = bytes(4)
    card = bytes.fromhex(mac.replace(":", ""))
    header = _HEADER.pack(
        1, 1, 6, 0, number, 0, _BROADCAST, none, none, none, none, card, b"", b"", _COOKIE
    )  # fmt: skip
    return header + b"".join(bytes([code, len(data)]) + data for code, data in options.items()) + b"\xff"


def parse(data: bytes) -> Answer:
    """Read a server's message."""
    options: Options = {}
    rest = data[_HEADER.size :]
    while rest and rest[0] != 255:
        if rest[0] == 0:
            rest = rest[1:]
            continue
        options[rest[0]] = rest[2 : 2 + rest[1]]
        rest = rest[2 + rest[1] :]
    return Answer(options[53][0], IPv4Address(data[16:20]), IPv4Address(data[20:24]), options, data[:236])
