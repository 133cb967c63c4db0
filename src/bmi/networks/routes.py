"""HTTP of networks."""

from ipaddress import IPv4Address

from fastapi import APIRouter, Response

from bmi.access.policy import Action
from bmi.access.rules import asks
from bmi.access.service import find_owned, select_visible
from bmi.api import networks as wire
from bmi.api.common import Page
from bmi.api.operations import Operation
from bmi.boot.service import network_boot_url
from bmi.db import page
from bmi.http import InProject, Pages, TheService, Who
from bmi.networks import addressing
from bmi.networks.models import Network
from bmi.parts import Parts
from bmi.provisioning import networks
from bmi.provisioning.accept import accept

router = APIRouter(tags=["networks"])


@router.post("/networks", status_code=202, dependencies=[asks(Action.NETWORK_WRITE)])
def create_network(service: TheService, who: Who, body: wire.NetworkCreate, response: Response) -> Operation:
    """Make a network, with the gateway's leg and boot service on it."""
    return accept(service, response, lambda session: networks.ask_create(session, service.parts, who, body))


@router.get("/networks", dependencies=[asks(Action.NETWORK_READ)])
def list_networks(
    service: TheService, who: Who, paging: Pages, project: InProject = None
) -> Page[wire.Network]:
    """List the project's networks, oldest first."""
    with service.parts.db.read() as session:
        query = select_visible(session, who, Network, Action.NETWORK_READ, project)
        rows, following = page(session, query, Network, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[_network(service.parts, row) for row in rows], next=following)


@router.get("/networks/{network}", dependencies=[asks(Action.NETWORK_READ)])
def show_network(service: TheService, who: Who, network: str, project: InProject = None) -> wire.Network:
    """Show a network."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Network, network, Action.NETWORK_READ, project=project)
        return _network(service.parts, row)


@router.patch("/networks/{network}", status_code=202, dependencies=[asks(Action.NETWORK_WRITE)])
def update_network(
    service: TheService,
    who: Who,
    network: str,
    body: wire.NetworkUpdate,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Change who gives addresses on a network, and what its nodes are told about it."""
    return accept(
        service,
        response,
        lambda session: networks.ask_update(session, service.parts, who, network, body, project),
    )


@router.delete("/networks/{network}", status_code=202, dependencies=[asks(Action.NETWORK_WRITE)])
def delete_network(
    service: TheService, who: Who, network: str, response: Response, project: InProject = None
) -> Operation:
    """Remove a network that no node is attached to."""
    return accept(service, response, lambda session: networks.ask_delete(session, who, network, project))


def _network(parts: Parts, row: Network) -> wire.Network:
    return wire.Network(
        id=row.id,
        name=row.name,
        project=row.project.name,
        state=row.state,
        vlan=row.vlan,
        subnet=row.range,
        gateway=row.gateway.ip,
        dhcp=row.dhcp.value,
        dhcp_range=addressing.range_of(row),
        router=addressing.router_of(row),
        dns=row.dns,
        dns_servers=[IPv4Address(server) for server in row.dns_servers],
        domain=addressing.domain_of(row, parts.settings.networks),
        mtu=row.mtu,
        lease_seconds=row.lease_seconds,
        boot_url=network_boot_url(parts, row.gateway.ip) if row.dhcp in addressing.FOREIGN else None,
        created_at=row.created_at,
    )
