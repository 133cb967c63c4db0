"""The addresses that nodes have taken, as dnsmasq keeps them: a line with expiry, MAC, address, name, client id."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from ipaddress import IPv4Address
from pathlib import Path

from bmi.boot import files


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
    return [lease for line in _steady_text(path).splitlines() if (lease := _parse(line))]


def stale(path: Path, reserved: set[Reservation]) -> list[Lease]:
    """Return the leases that no reservation stands behind."""
    return [lease for lease in leases(path) if (lease.mac, lease.address) not in reserved]


def drop_stale(path: Path, reserved: set[Reservation]) -> None:
    """Remove leases that no reservation stands behind from the file of a dnsmasq that does not run."""
    lines = (files.read(path) or "").splitlines()
    kept = [
        line for line in lines if (lease := _parse(line)) is None or (lease.mac, lease.address) in reserved
    ]
    if kept != lines:
        files.write(path, "".join(f"{line}\n" for line in kept))


def _parse(line: str) -> Lease | None:
    with suppress(ValueError):  # a line of DHCPv6, or half a line
        expires, mac, address, _name, _client = line.split(" ", 4)
        return Lease(mac, IPv4Address(address), datetime.fromtimestamp(int(expires), UTC))
    return None


def _steady_text(path: Path) -> str:
    """Return a file's text; dnsmasq empties it and writes it anew, so read until two readings agree."""
    before, text = None, files.read(path) or ""
    while text != before:
        before, text = text, files.read(path) or ""
    return text
