"""How a network's dnsmasq answers many nodes that ask at once, as after a power cut. One JSON object a line.

make bench PART=dhcp            200 cards
make bench PART=dhcp ARGS=50

Real exchanges (discover, offer, request, acknowledgement; RFC 2131) over a pair of virtual interfaces, with a
client that repeats what is not answered within 4 seconds, as the RFC has it (section 4.1). Needs root.
"""

import secrets
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from bench.output import emit, report
from bmi.boot.dnsmasq import Addressing, BootHost, NodeName
from bmi.netns import socket_inside
from tests.integration.dhcp_bench import Bench, dhcp_bench
from tests.integration.dhcp_client import (
    ACK,
    ASKED_FOR,
    DISCOVER,
    IPXE,
    OFFER,
    REQUEST,
    Answer,
    packet,
    parse,
)

CARDS = 200
REPEAT = 4.0  # seconds without an answer until a message is sent again
DEADLINE = 120.0  # seconds
FORCE = 33  # SO_RCVBUFFORCE of socket(7), which Python does not name
BUFFER = 8 << 20  # bytes; the client's own socket loses nothing
MOST = 253  # cards that have an address on the network


@dataclass
class Card:
    """A card on its way to its address."""

    host: BootHost
    xid: bytes = field(default_factory=lambda: secrets.token_bytes(4))
    offer: Answer | None = None
    sent: float = 0.0
    repeats: int = 0

    def message(self) -> bytes:
        """Return what the card sends now."""
        options = {53: bytes([REQUEST if self.offer else DISCOVER]), 55: ASKED_FOR, **IPXE}
        if self.offer:
            options |= {50: self.offer.address.packed, 54: self.offer.options[54]}
        return packet(self.xid, self.host.mac, options)


def main() -> int:
    """Let cards ask one by one, then all at once."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CARDS
    if not 0 < count <= MOST:
        print(f"from 1 to {MOST} cards fit on the network", file=sys.stderr)
        return 2
    hosts = [_host(number) for number in range(1, count + 1)]
    names = [NodeName(f"n{host.node.int}.bench.bmi.internal", host.address) for host in hosts]
    with tempfile.TemporaryDirectory(prefix="bmi-bench-") as folder, dhcp_bench(Path(folder)) as bench:
        started = time.monotonic()
        bench.dnsmasq.serve(
            bench.leg, hosts, addressing=Addressing(dns=True, zone="bench.bmi.internal"), names=names
        )
        emit("dnsmasq told of all hosts", time.monotonic() - started, "s", hosts=count)
        with _wire(bench) as wire:
            alone = [_exchange(wire, [Card(host)])[0] for host in hosts]
            report("one card alone, asked until acknowledged", alone, "s")
            emit("all cards, one by one", sum(alone), "s", cards=count)
            started = time.monotonic()
            cards = [Card(host) for host in hosts]
            taken = _exchange(wire, cards)
            together = time.monotonic() - started
            report("one card of all at once", taken or [0.0], "s")
            emit(
                "all cards at once",
                together,
                "s",
                answered=len(taken),
                lost=count - len(taken),
                repeats=sum(card.repeats for card in cards),
            )
            emit("all at once, to one by one", together / sum(alone), "ratio")
        return 0 if len(taken) == count else 1


def _exchange(wire: socket.socket, cards: list[Card]) -> list[float]:
    """Get an address for each card; returns the seconds that each one took that got its own."""
    waiting = {card.xid: card for card in cards}
    started = time.monotonic()
    taken: list[float] = []
    while waiting and time.monotonic() - started < DEADLINE:
        now = time.monotonic()
        for card in waiting.values():
            if not card.sent or now - card.sent > REPEAT:
                card.repeats += bool(card.sent)
                card.sent = now
                wire.sendto(card.message(), ("255.255.255.255", 67))
        try:
            data = wire.recv(4096)
        except TimeoutError:
            continue
        found = waiting.get(data[4:8])
        if found is None:
            continue
        answer = parse(data)
        if answer.kind == OFFER and found.offer is None:
            found.offer, found.sent = answer, time.monotonic()
            wire.sendto(found.message(), ("255.255.255.255", 67))
        elif answer.kind == ACK:
            assert answer.address == found.host.address
            assert answer.boot_file == found.host.script_url
            taken.append(time.monotonic() - started)
            del waiting[found.xid]
    return taken


@contextmanager
def _wire(bench: Bench) -> Iterator[socket.socket]:
    client = bench.client
    with socket_inside(client.namespace, socket.AF_INET, socket.SOCK_DGRAM) as wire:
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        wire.setsockopt(socket.SOL_SOCKET, FORCE, BUFFER)
        wire.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, client.interface.encode())
        wire.bind(("", 68))
        wire.settimeout(0.2)
        yield wire


def _host(number: int) -> BootHost:
    return BootHost(
        node=UUID(int=number),
        mac=f"52:54:00:67:{number >> 8:02x}:{number & 255:02x}",
        address=IPv4Address("10.66.0.0") + number,
        hostname=f"node-{number}",
        script_url=f"http://10.66.0.254:8080/boot/{UUID(int=number)}/{'0' * 64}/script.ipxe",
    )


if __name__ == "__main__":
    sys.exit(main())
