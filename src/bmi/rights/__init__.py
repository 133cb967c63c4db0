"""What a gateway can do with root's rights only, apart from its legs, its local switch and its DHCP servers.

A process that is root does it itself, `OwnRights`. One that is not asks the helper, `bmi.helper.client`.
"""

import contextlib
import socket
from ipaddress import IPv4Address
from typing import Protocol

from bmi import netns
from bmi.rights import peers
from bmi.run import run

_IP = 0x0800  # Ethernet's type of IPv4 (IEEE 802)
_DHCP_CLIENT = 68


class Rights(Protocol):
    """What takes root's rights. A namespace that is None is the caller's own, for which no rights are needed.

    Every verb raises `LegError` if there is no such namespace.
    """

    inside: bool
    """Whether the caller's own programs can run inside a namespace."""

    def socket_inside(
        self, namespace: str | None, family: socket.AddressFamily, type: socket.SocketKind
    ) -> socket.socket:
        """Make a socket that belongs to a namespace, for good.

        Args:
            namespace: Name of the namespace.
            family: AF_INET.
            type: SOCK_STREAM or SOCK_DGRAM.
        """

    def dhcp_sockets(self, namespace: str | None, interface: str) -> tuple[socket.socket, socket.socket]:
        """Make what asks a network for DHCP servers.

        Returns:
            A socket that gets every IPv4 frame of the interface, and one that sends as a DHCP client.

        Raises:
            OSError: There is no such interface, or another program is DHCP client there.
        """

    def let_in(self, namespace: str, port: int, peer: IPv4Address | None) -> bool:
        """Keep everybody but one address from a TCP port of a namespace; returns whether anything had to change.

        Args:
            namespace: Name of the namespace.
            port: The port.
            peer: Who is let through; everybody if None.

        Raises:
            TargetError: The kernel does not take it.
        """

    def tcp_table(self, namespace: str) -> str:
        """Return the namespace's TCP sockets, as /proc/net/tcp lists them (proc(5))."""

    def listening(self, namespace: str | None, port: int, *, udp: bool = False) -> str:
        """Return who listens on a port, as ss(8) lists it.

        Raises:
            CommandFailed: It cannot be seen.
        """


class OwnRights:
    """The rights of this process itself."""

    inside = True

    def socket_inside(
        self, namespace: str | None, family: socket.AddressFamily, type: socket.SocketKind
    ) -> socket.socket:
        """Make a socket inside a namespace, see `Rights`."""
        return netns.socket_inside(namespace, family, type)

    def dhcp_sockets(self, namespace: str | None, interface: str) -> tuple[socket.socket, socket.socket]:
        """Make what asks for DHCP servers, see `Rights`."""
        return netns.call_inside(namespace, lambda: _dhcp_sockets(interface))

    def let_in(self, namespace: str, port: int, peer: IPv4Address | None) -> bool:
        """Keep all others from a port, see `Rights`."""
        return peers.let_in(namespace, port, peer)

    def tcp_table(self, namespace: str) -> str:
        """List TCP sockets, see `Rights`."""
        return netns.tcp_table(namespace)

    def listening(self, namespace: str | None, port: int, *, udp: bool = False) -> str:
        """List who listens, see `Rights`."""
        return run(["ss", f"-Hln{'u' if udp else 't'}p", f"sport = :{port}"], namespace=namespace)


OWN = OwnRights()


def _dhcp_sockets(interface: str) -> tuple[socket.socket, socket.socket]:
    with contextlib.ExitStack() as made:
        # Frames, not datagrams: their senders' cards are known, and no answer is lost to another program's socket.
        wire = made.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_IP)))
        wire.bind((interface, _IP))
        asking = made.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        asking.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        asking.bind(("", _DHCP_CLIENT))
        made.pop_all()
    return wire, asking
