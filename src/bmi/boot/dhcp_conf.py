"""The texts that dnsmasq reads: its configuration, its hosts and their options.

The configuration's text is in `templates/`. Every value is checked here before it gets into a line: what comes
from a user must not become a directive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from bmi.boot.checks import check_hostname, check_mac, check_url
from bmi.boot.texts import OWN_TEXTS, Texts
from bmi.boot.variables import DhcpServer, Loader
from bmi.drivers.leg import Leg
from bmi.errors import BadRequest

LOADERS = (
    Loader("bios", architectures=(0,), file="undionly.kpxe"),
    Loader("uefi", architectures=(7, 9), file="snponly.efi"),
)
"""Files that firmware loads over TFTP, by the architecture that it names (RFC 4578, section 2.1)."""

_LEASE = 24 * 3600  # seconds; a node's disk hangs on its address, so it outlives a long outage of this host
_RA_INTERVAL = 10  # seconds between two router advertisements
_LEASES_AT_MOST = 4096


@dataclass(frozen=True)
class BootHost:
    """A node that is answered on a network: its card, its address and where its boot script is."""

    node: UUID
    mac: str
    """Six pairs of hexadecimal digits with colons."""
    address: IPv4Address
    hostname: str
    script_url: str = field(repr=False)
    """Only this node's card is told; it may hold a secret."""


@dataclass(frozen=True)
class Place:
    """Where one dnsmasq runs. It must be started anew when any of this changes."""

    leg: Leg
    namespace_inode: int
    """A namespace made anew has the old one's name, but dnsmasq would stay in the old one."""
    interface_index: int
    """So it is with an interface."""
    gateway: IPv4Address | None
    tftp_root: Path
    user: str
    hosts: Path
    options: Path
    leases: Path
    log: Path


def check_hosts(leg: Leg, hosts: Sequence[BootHost]) -> None:
    """Refuse hosts that cannot be served together on a leg.

    Raises:
        BadRequest: A value cannot be used, or two hosts want the same card or address.
    """
    network = leg.address.network
    for host in hosts:
        check_mac(host.mac)
        check_hostname(host.hostname)
        check_url(host.script_url)
        taken = (leg.address.ip, network.network_address, network.broadcast_address)
        if host.address not in network or host.address in taken:
            raise BadRequest(
                f"node {host.node} cannot have the address {host.address} in {network}",
                next_step="give it an address of the network that is not the gateway's",
            )
    for what, values in (
        ("the card", [host.mac.lower() for host in hosts]),
        ("the address", [str(host.address) for host in hosts]),
    ):
        for value in values:
            if values.count(value) > 1:
                raise BadRequest(
                    f"two nodes are to have {what} {value} on network {leg.network}",
                    next_step="correct one of them in the inventory",
                )


def configuration(place: Place, texts: Texts = OWN_TEXTS) -> str:
    """Return the configuration that dnsmasq reads once, when it starts.

    Raises:
        SettingsInvalid: The template of this site's own cannot be used.
    """
    leg = place.leg
    return texts.render(
        DhcpServer(
            namespace_inode=place.namespace_inode,
            interface_index=place.interface_index,
            interface=leg.interface,
            user=place.user,
            subnet=leg.address.network,
            lease_seconds=_LEASE,
            leases_at_most=_LEASES_AT_MOST,
            router=place.gateway,
            advertisement_seconds=_RA_INTERVAL,
            loaders=LOADERS,
            tftp_root=place.tftp_root,
            hosts=place.hosts,
            options=place.options,
            leases=place.leases,
            log=place.log,
            byte_tags=tuple(_byte_tags()),
        )
    )


def hosts_text(hosts: Sequence[BootHost]) -> str:
    """Return the reservations."""
    lines = sorted(f"{host.mac.lower()},{host.address}" for host in hosts)
    return "".join(f"{line}\n" for line in lines)


def options_text(hosts: Sequence[BootHost]) -> str:
    """Return the options that each host alone gets."""
    lines = []
    for host in sorted(hosts, key=lambda host: host.mac.lower()):
        tags = _tags(host.mac)
        lines.append(f'tag:ipxe,{tags},67,"{host.script_url}"')
        lines.append(f'{tags},12,"{host.hostname}"')
    return "".join(f"{line}\n" for line in lines)


def _byte_tags() -> list[str]:
    """Return directives that give every card six tags, one for each byte of its address.

    An option with all six tags of a card is that card's own. Tags set in the hosts file would be the usual way,
    but dnsmasq 2.90 frees memory on its stack when it reads such a file again after it answered the host, and
    dies (github.com/imp/dnsmasq/pull/20 shows the place).
    """
    return [
        f"dhcp-mac=set:m{position}x{value:02x},{'*:' * position}{value:02x}{':*' * (5 - position)}"
        for position in range(6)
        for value in range(256)
    ]


def _tags(mac: str) -> str:
    return ",".join(f"tag:m{position}x{byte}" for position, byte in enumerate(mac.lower().split(":")))
