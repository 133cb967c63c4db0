"""Which addresses a URL may lead to: public ones, and those that the site allows.

Without this, whoever may import could read what only the service can reach: its own ports, a cloud's metadata.
"""

import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from bmi.errors import FetchFailed, FetchRefused

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

# IPv6 prefixes that stand for IPv4 addresses: RFC 6052, 8215 and 3056; what is inside counts.
_NAT64 = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")


def resolve(host: str, port: int, allowed: Sequence[Network]) -> str:
    """Return the address to connect to. Connect to it and to no other: a second look might find another one.

    Args:
        host: Name or address.
        port: Port.
        allowed: Networks that are allowed although they are not public.

    Raises:
        FetchFailed: The name cannot be resolved now.
        FetchRefused: It leads to an address that is not allowed.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise FetchFailed(f"{host} has no address: {error}", next_step="check the URL") from error
    addresses = [str(entry[4][0]) for entry in found]
    for address in addresses:
        if not is_allowed(ip_address(address.partition("%")[0]), allowed):
            raise FetchRefused(
                f"{host} leads to an address that is not public",
                next_step="upload the file, or ask the admin to allow its network (intake.networks)",
            )
    return addresses[0]


def is_allowed(address: Address, allowed: Sequence[Network]) -> bool:
    """Say whether an address is public, or in a network that is allowed."""
    inner = _inside(address)
    if inner is not None:
        return is_allowed(inner, allowed)
    if any(address in network for network in allowed):
        return True
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not (isinstance(address, IPv6Address) and (address.is_site_local or address in _NAT64_LOCAL))
    )


def _inside(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, IPv4Address):
        return None
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
