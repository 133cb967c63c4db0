"""What a network's settings mean: which of them can be, and what its cards are told about it."""

from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv4Interface
from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.networks import AddressRange, NetworkSettings
from bmi.boot.checks import check_hostname
from bmi.boot.dhcp_conf import LEASE, Addressing, DhcpMode, NodeName
from bmi.boot.seed import Wiring
from bmi.errors import BadRequest
from bmi.networks.models import Attachment, Network
from bmi.settings import Networks

FOREIGN = frozenset({DhcpMode.PROXY, DhcpMode.OFF})
"""Where BMI gives no addresses."""


def change(session: Session, settings: Networks, network: Network, asked: NetworkSettings) -> None:
    """Write settings into a network's row: those that are named, the others stay.

    Raises:
        BadRequest: They cannot be, together with the others or with the addresses that nodes have.
    """
    named = asked.model_fields_set
    if "dhcp" in named:
        network.dhcp = DhcpMode(asked.dhcp)
    if "dhcp_range" in named or network.dhcp is not DhcpMode.FULL:
        found = asked.dhcp_range if "dhcp_range" in named else None
        network.dhcp_first = str(found.first) if found else None
        network.dhcp_last = str(found.last) if found else None
    if "router" in named:
        network.router = str(asked.router) if asked.router else None
    if "dns_servers" in named:
        network.dns_servers = [str(server) for server in asked.dns_servers]
    for name in ("dns", "domain", "mtu", "lease_seconds"):
        if name in named:
            setattr(network, name, getattr(asked, name))
    _check(session, settings, network)


def restore(network: Network, before: dict[str, Any]) -> None:
    """Write back what `saved` returned."""
    network.dhcp = DhcpMode(before["dhcp"])
    for name in _PLAIN:
        setattr(network, name, before[name])


def saved(network: Network) -> dict[str, Any]:
    """Return a network's settings, as JSON has them."""
    return {"dhcp": network.dhcp.value} | {name: getattr(network, name) for name in _PLAIN}


def range_of(network: Network) -> AddressRange | None:
    """Return the range of addresses for cards that are no node's, if there is one."""
    if network.dhcp_first is None or network.dhcp_last is None:
        return None
    return AddressRange(first=IPv4Address(network.dhcp_first), last=IPv4Address(network.dhcp_last))


def router_of(network: Network) -> IPv4Address | None:
    """Return the default route that nodes are given, if there is one."""
    return IPv4Address(network.router) if network.router else None


def domain_of(network: Network, settings: Networks) -> str | None:
    """Return the domain of a network's nodes: PROJECT.DOMAIN, where names are answered or a domain is set."""
    domain = network.domain or (settings.domain if network.dns else None)
    return f"{network.project.name}.{domain}" if domain else None


def is_kept_free(network: Network, address: IPv4Address) -> bool:
    """Say whether no node can have an address: it is the router's, or one for cards that are no node's."""
    kept = range_of(network)
    return address == router_of(network) or (kept is not None and kept.first <= address <= kept.last)


def addressing(
    network: Network,
    settings: Networks,
    *,
    dynamic: bool,
    strangers: Sequence[str],
    script_url: str,
    discovery_url: str | None,
) -> Addressing:
    """Return what the cards on a network are told by one gateway.

    Args:
        network: The network.
        settings: The settings of networks.
        dynamic: Whether this gateway is the one that answers cards which are no node's.
        strangers: Cards of nodes that other gateways answer.
        script_url: Where nodes ask what to boot if another server gives addresses.
        discovery_url: Where machines that are no nodes ask; none where they are not to be discovered.
    """
    kept = range_of(network) if dynamic else None
    return Addressing(
        mode=network.dhcp,
        dynamic=(kept.first, kept.last) if kept else None,
        strangers=tuple(strangers) if kept else (),
        router=router_of(network),
        dns=network.dns,
        dns_servers=_servers(network),
        zone=domain_of(network, settings),
        mtu=network.mtu,
        lease=network.lease_seconds or LEASE,
        script_url=script_url if network.dhcp is DhcpMode.PROXY else None,
        discovery_url=discovery_url if kept else None,
    )


def names(network: Network, settings: Networks, nodes: Collection[tuple[str, IPv4Address]]) -> list[NodeName]:
    """Return the names of nodes on a network: NODE.PROJECT.DOMAIN.

    A node whose name is none in the DNS has none: two dots in a row are allowed in BMI.
    """
    zone = domain_of(network, settings)
    if zone is None or not network.dns:
        return []
    return [NodeName(f"{name}.{zone}", address) for name, address in nodes if _is_name(f"{name}.{zone}")]


def wiring(network: Network, settings: Networks, address: IPv4Address, gateway: IPv4Address) -> Wiring:
    """Return what a node's system is told about its card.

    Args:
        network: The network.
        settings: The settings of networks.
        address: The node's.
        gateway: The address of the node's gateway, which answers for names.
    """
    # Where there is no DHCP to say it, or where systems do not take it from there as a matter of course.
    off = network.dhcp is DhcpMode.OFF
    foreign = network.dhcp in FOREIGN
    return Wiring(
        address=IPv4Interface((address, network.range.prefixlen)) if off else None,
        router=router_of(network) if off else None,
        mtu=network.mtu,
        dns_servers=((gateway,) if network.dns else _servers(network)) if foreign else (),
        domain=domain_of(network, settings),
    )


_PLAIN = (
    "dhcp_first",
    "dhcp_last",
    "router",
    "dns",
    "dns_servers",
    "domain",
    "mtu",
    "lease_seconds",
)


def _servers(network: Network) -> tuple[IPv4Address, ...]:
    return tuple(IPv4Address(server) for server in network.dns_servers)


def _is_name(name: str) -> bool:
    try:
        check_hostname(name)
    except BadRequest:
        return False
    return True


def _check(session: Session, settings: Networks, network: Network) -> None:
    kept, router = range_of(network), router_of(network)
    if (network.dhcp is DhcpMode.FULL) != (kept is not None):
        raise BadRequest(
            f"DHCP mode {network.dhcp.value} {'needs a' if kept is None else 'has no'} range of addresses",
            next_step="name one with full, as in 10.64.1.100-10.64.1.199, and none with other modes",
        )
    first_gateway = network.address_of(settings.gateways).ip
    for what, address in (
        ("router", router),
        ("start of the DHCP range", kept.first if kept else None),
        ("end of the DHCP range", kept.last if kept else None),
    ):
        if address is not None and not network.range.network_address < address < first_gateway:
            raise BadRequest(
                f"the {what} {address} is not among the addresses of nodes on network {network.name}",
                next_step=f"choose one from {network.range.network_address + 1} to {first_gateway - 1}: "
                "those after it are the gateways'",
            )
    if kept and kept.first > kept.last:
        raise BadRequest(
            f"the DHCP range {kept.first} to {kept.last} is empty", next_step="name the lower address first"
        )
    if kept and router and kept.first <= router <= kept.last:
        raise BadRequest(f"the router {router} is in the DHCP range", next_step="leave it out of the range")
    _check_servers(network, settings, router)
    taken = _taken(session, network.id)
    for address, node in taken.items():
        if is_kept_free(network, address):
            raise BadRequest(
                f"node {node} has the address {address}, which would be the router's or in the DHCP range",
                next_step="choose others, or give the node back first",
            )


def _check_servers(network: Network, settings: Networks, router: IPv4Address | None) -> None:
    gateways = {network.address_of(number).ip for number in range(1, settings.gateways + 1)}
    for server in _servers(network):
        if server in gateways or server.is_loopback or server.is_multicast or server.is_unspecified:
            raise BadRequest(
                f"{server} cannot be a DNS server of network {network.name}",
                next_step="name the address of one that its gateway can ask",
            )
        if network.dns and server not in network.range and router is None:
            raise BadRequest(
                f"the gateway cannot reach the DNS server {server}, which is not on network {network.name}",
                next_step="name the network's router too, or let nodes ask it themselves: dns off",
            )


def _taken(session: Session, network: UUID) -> dict[IPv4Address, str]:
    rows = session.scalars(select(Attachment).where(Attachment.network_id == network))
    return {row.ip: row.nic.node.name for row in rows}
