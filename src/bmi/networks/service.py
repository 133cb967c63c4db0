"""Use cases of networks: choosing VLANs and addresses, and making switch ports equal to the database."""

from collections.abc import Sequence
from ipaddress import IPv4Address
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.api.networks import NetworkCreate
from bmi.boot.dhcp_conf import DhcpMode
from bmi.boot.models import Boot
from bmi.drivers import Outcome
from bmi.drivers.switch import ISOLATED, PortVlans, Switch
from bmi.errors import AlreadyExists, BadRequest, InUse, SettingsInvalid
from bmi.ids import new_id
from bmi.networks.addressing import FOREIGN, change, is_kept_free
from bmi.networks.models import Attachment, Network
from bmi.nodes.models import Nic
from bmi.parts import Parts
from bmi.settings import EXPORT_PORTS, Networks


def plan(session: Session, settings: Networks, project: Project, request: NetworkCreate) -> Network:
    """Return a new network with a VLAN and a subnet that nobody else has.

    Raises:
        AlreadyExists: The VLAN that was asked for is taken.
        BadRequest: The subnet that was asked for is too small or overlaps another one, or a setting cannot be.
        InUse: The pool of VLANs or subnets is used up.
    """
    others = session.scalars(select(Network)).all()
    network = Network(
        id=new_id(),
        name=request.name,
        project_id=project.id,
        project=project,
        state="creating",
        vlan=_choose_vlan(others, settings, request),
        subnet=_choose_subnet(others, settings, request),
        dhcp=DhcpMode.RESERVATIONS,
        dns=True,
        dns_servers=[],
    )
    change(session, settings, network, request)
    return network


def choose_address(
    session: Session, settings: Networks, network: Network, card: Nic, asked: IPv4Address | None
) -> IPv4Address:
    """Return the address that a card is to have on a network.

    Where another server gives addresses, it has to be named: everything that a node gets is for its address
    alone, so one who could tell BMI of another address could have what is another's.

    Args:
        session: The transaction.
        settings: The settings of networks.
        network: The network.
        card: The card.
        asked: The address that was asked for; one that is free if None.

    Raises:
        BadRequest: That address cannot be a node's, or none was named on a network where it has to be.
        InUse: Somebody else has it, or there is none left.
    """
    if asked is None and network.dhcp in FOREIGN:
        raise BadRequest(
            f"another server gives addresses on network {network.name} (DHCP mode {network.dhcp.value})",
            next_step=f"reserve one there for {card.mac}, and name it here: --address",
        )
    if asked is None:
        return free_address(session, settings, network)
    last = network.address_of(settings.gateways).ip - 1
    if not network.range.network_address < asked <= last or is_kept_free(network, asked):
        raise BadRequest(
            f"{asked} cannot be a node's address on network {network.name}",
            next_step=f"choose one from {network.range.network_address + 1} to {last} that is neither the router's "
            "nor in the DHCP range",
        )
    taken = select(Attachment).where(Attachment.network_id == network.id, Attachment.address == str(asked))
    if other := session.scalar(taken.limit(1)):
        raise InUse(
            f"node {other.nic.node.name} has the address {asked} on network {network.name}",
            next_step="choose another address",
        )
    return asked


def free_address(session: Session, settings: Networks, network: Network) -> IPv4Address:
    """Return the lowest address of a network that no attachment has, and nothing else may need.

    Raises:
        InUse: There is none left.
    """
    taken = set(session.scalars(select(Attachment.address).where(Attachment.network_id == network.id)))
    first_gateway = network.address_of(settings.gateways).ip
    for address in network.range.hosts():
        if address >= first_gateway:
            break
        if str(address) not in taken and not is_kept_free(network, address):
            return address
    raise InUse(
        f"network {network.name} has no free address in {network.subnet}",
        next_step="deprovision nodes on it, or use another network",
    )


def switch_of(parts: Parts, name: str) -> Switch:
    """Return a switch by its name in the settings.

    Raises:
        SettingsInvalid: The settings have none of that name.
    """
    try:
        return parts.switches[name]
    except KeyError:
        raise SettingsInvalid(
            f"there is no switch {name!r} in the settings",
            next_step=f"add [switches.{name}], or use one of: {', '.join(sorted(parts.switches)) or 'none'}",
        ) from None


def vlans_of(session: Session, nic: UUID) -> PortVlans:
    """Return what a card's port should carry: nothing, unless a boot record attaches the card."""
    network = session.scalar(
        select(Network)
        .join(Attachment, Attachment.network_id == Network.id)
        .join(Boot, Boot.attachment_id == Attachment.id)
        .where(Attachment.nic_id == nic, Boot.attached)
    )
    return PortVlans(native=network.vlan) if network else ISOLATED


def apply_port(parts: Parts, id: UUID) -> Outcome:
    """Make a card's switch port equal to the database, read back; one process at a time."""
    with parts.db.lock(f"port of card {id}"):
        with parts.db.read() as session:
            nic = session.get_one(Nic, id)
            vlans = vlans_of(session, id)
        return switch_of(parts, nic.switch).configure(nic.port, vlans)


def _choose_vlan(others: Sequence[Network], settings: Networks, request: NetworkCreate) -> int:
    taken = {other.vlan: other for other in others}
    if request.vlan is not None:
        if request.vlan in taken:
            raise AlreadyExists(
                f"VLAN {request.vlan} belongs to another network", next_step="choose another one, or none"
            )
        return request.vlan
    for vlan in range(settings.first_vlan, settings.last_vlan + 1):
        if vlan not in taken:
            return vlan
    raise InUse(
        f"all VLANs from {settings.first_vlan} to {settings.last_vlan} are taken",
        next_step="remove a network, or raise networks.last_vlan in the settings",
    )


def _choose_subnet(others: Sequence[Network], settings: Networks, request: NetworkCreate) -> str:
    taken = [other.range for other in others]
    if request.subnet is not None:
        least = settings.gateways + 3  # with a node, the network's own address and the broadcast address
        if not least <= request.subnet.num_addresses <= EXPORT_PORTS:
            raise BadRequest(
                f"subnet {request.subnet} has {request.subnet.num_addresses} addresses",
                next_step=f"use one with {least} to {EXPORT_PORTS}, {settings.gateways} of them for gateways",
            )
        if any(request.subnet.overlaps(other) for other in taken):
            raise BadRequest(
                f"subnet {request.subnet} overlaps another network's", next_step="choose another one, or none"
            )
        return str(request.subnet)
    for subnet in settings.subnets.subnets(new_prefix=settings.prefix):
        if not any(subnet.overlaps(other) for other in taken):
            return str(subnet)
    raise InUse(
        f"all subnets of {settings.subnets} are taken",
        next_step="remove a network, or widen networks.subnets in the settings",
    )
