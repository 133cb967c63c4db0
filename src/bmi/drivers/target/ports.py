"""Who listens on a portal's address, and who is connected to it."""

import re
import sys
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path

from bmi.drivers.target import Portal
from bmi.errors import BmiError, PortTaken
from bmi.rights import Rights

NAMESPACES = Path("/run/netns")
"""Where ip-netns(8) keeps them."""

_ESTABLISHED, _LISTENING = "01", "0A"  # in /proc/net/tcp (proc(5))


def port_taken(rights: Rights, portal: Portal) -> PortTaken:
    """Return the error that says who listens on a portal's address, as far as this user may know."""
    return PortTaken(
        f"address {where(portal)} is taken by {_holder(rights, portal) or 'another program'}",
        next_step="end that program, or let BMI listen on another address or port",
    )


def where(portal: Portal) -> str:
    """Return a portal's address in words."""
    return str(portal) if portal.namespace is None else f"{portal} in namespace {portal.namespace}"


def connected(table: str, address: str, port: int) -> set[str]:
    """Return the addresses from which there are connections to a listener.

    Args:
        table: Content of its namespace's /proc/net/tcp.
        address: Where it listens.
        port: See there.
    """
    here = _hexadecimal(address, port)
    return {_address(remote) for local, remote, _ in _rows(table, _ESTABLISHED) if local == here}


def listens(table: str, address: str, port: int) -> bool:
    """Say whether somebody listens on an address, of those in a /proc/net/tcp."""
    here = _hexadecimal(address, port)
    return any(local == here for local, _, _ in _rows(table, _LISTENING))


def connected_to(pid: int) -> set[str]:
    """Return the addresses from which there are connections to a process; nothing if it has just ended."""
    try:
        sockets = _sockets(pid)
        table = Path(f"/proc/{pid}/net/tcp").read_text()
    except OSError:
        return set()
    return {_address(remote) for _, remote, inode in _rows(table, _ESTABLISHED) if inode in sockets}


def _rows(table: str, state: str) -> list[tuple[str, str, str]]:
    """Return local address, remote address and inode of each socket in a state, of a /proc/net/tcp (proc(5))."""
    rows = [line.split() for line in table.splitlines()[1:]]
    return [(row[1], row[2], row[9]) for row in rows if row[3] == state]


def _sockets(pid: int) -> set[str]:
    """Return the inodes of the sockets that a process has open."""
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since it was listed
            links.append(str(descriptor.readlink()))
    return {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}


def _hexadecimal(address: str, port: int) -> str:
    """Return an address as /proc/net/tcp writes it: a number in the host's own byte order."""
    number = int.from_bytes(IPv4Address(address).packed, sys.byteorder)
    return f"{number:08X}:{port:04X}"


def _address(hexadecimal: str) -> str:
    number = int(hexadecimal.partition(":")[0], 16)
    return str(IPv4Address(number.to_bytes(4, sys.byteorder)))


def _holder(rights: Rights, portal: Portal) -> str | None:
    try:
        sockets = rights.listening(portal.namespace, portal.port)
    except BmiError:
        return None
    for line in sockets.splitlines():
        local = line.split()[3].rpartition(":")[0]
        program = re.search(r'\("([^"]*)",pid=(\d+)', line)
        if program and local in (str(portal.address), "0.0.0.0", "*"):  # noqa: S104
            return f"{program[1]} (process {program[2]})"
    return None
