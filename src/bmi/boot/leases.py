"""The addresses that nodes have taken, as dnsmasq keeps them: a line with expiry, MAC, address, name, client id.

dnsmasq empties the file and writes it anew, and on a busy disk it is empty for a tenth of a second. So every file
is begun with a DUID, the name of a DHCPv6 server, though none runs: dnsmasq keeps it as the last line, and with it
the file is known to be whole.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from bmi.boot import files
from bmi.boot.checks import check_mac
from bmi.errors import BadRequest, DeadlineExceeded
from bmi.wait import wait_until

_END = "duid 00:04" + ":00" * 16  # RFC 6355
_WRITTEN = 2.0  # seconds
_POLL = 0.002  # seconds


@dataclass(frozen=True)
class Lease:
    """An address that a node has taken."""

    mac: str
    address: IPv4Address
    expires: datetime


Reservation = tuple[str, IPv4Address]
"""A card's MAC address in lower case, and the address that is its."""


def leases(path: Path) -> list[Lease]:
    """Return the leases of a running or ended dnsmasq."""
    return [lease for line in _whole_text(path).splitlines() if (lease := _parse(line))]


Range = tuple[IPv4Address, IPv4Address]
"""First and last address for cards that no reservation is for."""


def stale(path: Path, reserved: set[Reservation], dynamic: Range | None = None) -> list[Lease]:
    """Return the leases that neither a reservation nor a range stands behind."""
    return [lease for lease in leases(path) if not stands(lease, reserved, dynamic)]


def drop_stale(path: Path, reserved: set[Reservation], dynamic: Range | None = None) -> None:
    """Make the file of a dnsmasq that does not run hold nothing but leases that something stands behind."""
    kept = [
        line
        for line in (files.read(path) or "").splitlines()
        if (lease := _parse(line)) and stands(lease, reserved, dynamic)
    ]
    files.write(path, "".join(f"{line}\n" for line in [*kept, _END]))


def as_libvirt(found: Sequence[Lease]) -> str:
    """Return leases as libvirt keeps those of its networks (in VIRBR.status), for programs that read that."""
    rows = [
        {
            "ip-address": str(lease.address),
            "mac-address": lease.mac,
            "expiry-time": int(lease.expires.timestamp()),
        }
        for lease in found
    ]
    return json.dumps(rows, indent=2) + "\n"


def stands(lease: Lease, reserved: set[Reservation], dynamic: Range | None) -> bool:
    """Say whether a lease is one that may be: a node's own, or a stranger's of the range."""
    if (lease.mac, lease.address) in reserved:
        return True
    known = {mac for mac, _ in reserved}
    return dynamic is not None and dynamic[0] <= lease.address <= dynamic[1] and lease.mac not in known


def _parse(line: str) -> Lease | None:
    """Read a line, whatever stands for a name or a client's id, as `*` does where there is none."""
    words = line.split()
    with suppress(BadRequest, ValueError, OverflowError, OSError):  # half a line, or the last
        expires, card, address = words[:3]
        # A card that is no Ethernet card has its kind in front (RFC 2131, `htype`), Ethernet's is 01.
        mac = check_mac(card.removeprefix("01-"))
        return Lease(mac, IPv4Address(address), datetime.fromtimestamp(int(expires), UTC))
    return None


def _whole_text(path: Path) -> str:
    """Return a file's text, with its last line if dnsmasq writes it soon."""
    text = ""

    def whole() -> bool:
        nonlocal text
        found = files.read(path)
        text = found or ""
        return found is None or text.endswith(f"{_END}\n")

    with suppress(DeadlineExceeded):  # dnsmasq died as it wrote: what there is, is what it will start from
        wait_until(whole, deadline=_WRITTEN, what="", next_step="", poll=_POLL)
    return text
