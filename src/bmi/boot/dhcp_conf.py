"""The texts that dnsmasq reads: its configuration, its hosts and their options.

The configuration's text is in `templates/`. Every value is checked here before it gets into a line: what comes
from a user must not become a directive.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID

from bmi.boot.checks import check_hostname, check_mac, check_url
from bmi.boot.texts import OWN_TEXTS, Texts
from bmi.boot.variables import DhcpServer, Loader
from bmi.drivers.leg import Leg
from bmi.errors import BadRequest

LEASE = 24 * 3600  # seconds; a node's disk hangs on its address, so it outlives a long outage of this host
LEASES = range(120, 366 * 86400)
"""Seconds that a lease may have; dnsmasq gives none below two minutes."""
MTUS = range(576, 9217)
"""Bytes that a packet may have: what every host takes (RFC 1122, 3.3.2), and what switches carry at most."""

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


class DhcpMode(StrEnum):
    """Who gives addresses on a network."""

    FULL = "full"
    """BMI: nodes their own, and cards that it does not know one of a range."""
    RESERVATIONS = "reservations"
    """BMI, to nodes only."""
    PROXY = "proxy"
    """Another server; BMI adds what to boot."""
    OFF = "off"
    """Another server, or nobody: BMI is silent."""


@dataclass(frozen=True)
class Addressing:
    """What the cards on a network are told about it, and by whom."""

    mode: DhcpMode = DhcpMode.RESERVATIONS
    dynamic: tuple[IPv4Address, IPv4Address] | None = None
    """First and last address for cards that are no node's, if these are given any here."""
    strangers: tuple[str, ...] = ()
    """MAC addresses of cards that other gateways answer, and that are given nothing here."""
    router: IPv4Address | None = None
    """The default route; none if None."""
    dns: bool = False
    """Whether names are answered: those of the network's nodes, and others by asking `dns_servers`."""
    dns_servers: tuple[IPv4Address, ...] = ()
    """Whom to ask; where names are not answered, whom the cards are told to ask."""
    zone: str | None = None
    """The domain of the nodes."""
    mtu: int | None = None
    """Bytes of a packet; nothing is said about it if None."""
    lease: int = LEASE
    """Seconds for which an address is given."""
    script_url: str | None = None
    """Where any node's iPXE asks what to boot; for `proxy`."""
    discovery_url: str | None = None
    """Where the iPXE of a card that is no node's asks; none where such machines are to boot nothing."""


@dataclass(frozen=True)
class NodeName:
    """A name that is answered, and whose address it is."""

    name: str
    address: IPv4Address


@dataclass(frozen=True)
class Place:
    """Where one dnsmasq runs. It must be started anew when any of this changes."""

    leg: Leg
    namespace_inode: int
    """A namespace made anew has the old one's name, but dnsmasq would stay in the old one."""
    interface_index: int
    """So it is with an interface."""
    addressing: Addressing
    loaders: tuple[Loader, ...]
    tftp_root: Path
    user: str
    hosts: Path
    options: Path
    leases: Path
    names: Path
    log: Path


def check_addressing(leg: Leg, addressing: Addressing) -> None:
    """Refuse what cannot be told to the cards of a network.

    Raises:
        BadRequest: A value cannot be used.
    """
    network = leg.address.network
    within = [*(addressing.dynamic or ()), *([addressing.router] if addressing.router else [])]
    for address in within:
        if address not in network or address in (network.network_address, network.broadcast_address):
            raise BadRequest(f"{address} is no address of {network}", next_step="choose one of the network")
    if addressing.dynamic and addressing.dynamic[0] > addressing.dynamic[1]:
        first, last = addressing.dynamic
        raise BadRequest(f"the range {first} to {last} is empty", next_step="name the lower address first")
    if any(server in {own.ip for own in leg.addresses} for server in addressing.dns_servers):
        raise BadRequest("the gateway cannot ask itself for names", next_step="name other DNS servers")
    if addressing.dns and addressing.zone is None:
        raise BadRequest("names need a domain", next_step="name one for the network")
    if addressing.zone is not None:
        check_hostname(addressing.zone)
    for url in (addressing.script_url, addressing.discovery_url):
        if url is not None:
            check_url(url)
    for mac in addressing.strangers:
        check_mac(mac)
    for what, value, allowed in (("MTU", addressing.mtu, MTUS), ("lease", addressing.lease, LEASES)):
        if value is not None and value not in allowed:
            raise BadRequest(
                f"{value} is no {what} that can be used",
                next_step=f"choose one from {allowed[0]} to {allowed[-1]}",
            )


def check_names(names: Sequence[NodeName]) -> None:
    """Refuse names that are none.

    Raises:
        BadRequest: One is none.
    """
    for each in names:
        check_hostname(each.name)


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
    leg, told = place.leg, place.addressing
    return texts.render(
        DhcpServer(
            namespace_inode=place.namespace_inode,
            interface_index=place.interface_index,
            interface=leg.interface,
            gateway=leg.address.ip,
            user=place.user,
            subnet=leg.address.network,
            dhcp=told.mode.value,
            dynamic=told.dynamic,
            lease_seconds=told.lease,
            leases_at_most=_LEASES_AT_MOST,
            router=told.router,
            dns=told.dns,
            dns_servers=told.dns_servers,
            zone=told.zone,
            names=place.names,
            mtu=told.mtu,
            script_url=told.script_url,
            discovery_url=told.discovery_url if told.dynamic else None,
            advertisement_seconds=_RA_INTERVAL,
            loaders=place.loaders,
            tftp_root=place.tftp_root,
            hosts=place.hosts,
            options=place.options,
            leases=place.leases,
            log=place.log,
            byte_tags=tuple(_byte_tags()),
        )
    )


def names_text(names: Sequence[NodeName]) -> str:
    """Return the names, as hosts(5) has them."""
    return "".join(sorted(f"{each.address} {each.name.lower()}\n" for each in names))


def hosts_text(hosts: Sequence[BootHost], strangers: Sequence[str] = ()) -> str:
    """Return the reservations, and the cards that are to meet silence."""
    lines = sorted(f"{host.mac.lower()},{host.address}" for host in hosts)
    lines += sorted(f"{mac.lower()},ignore" for mac in strangers)
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
