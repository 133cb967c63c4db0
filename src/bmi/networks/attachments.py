"""Which networks the cards of a node are on: one that it boots on, and others beside it."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned, owner
from bmi.api.nodes import ATTACHMENTS, Attach
from bmi.boot.models import Boot
from bmi.errors import AlreadyExists, BadRequest, InUse, NotAllowed, WrongState
from bmi.ids import new_id
from bmi.networks.models import Attachment, Network
from bmi.networks.service import choose_address
from bmi.nodes.models import Nic, Node
from bmi.settings import Networks


def card(node: Node, ref: str | None) -> Nic:
    """Return a card of a node.

    Args:
        node: The node.
        ref: Its number, from 1, or its MAC; the first card if None.

    Raises:
        BadRequest: The node has no such card.
    """
    if ref is None:
        return node.nics[0]
    for number, nic in enumerate(node.nics, 1):
        if ref in (str(number), nic.mac):
            return nic
    cards = ", ".join(f"{number} ({nic.mac})" for number, nic in enumerate(node.nics, 1))
    raise BadRequest(f"node {node.name} has no card {ref}", next_step=f"name one of these: {cards}")


def number_of(node: Node, nic: UUID) -> int:
    """Return the number of a node's card, from 1."""
    return next(number for number, row in enumerate(node.nics, 1) if row.id == nic)


def on_node(session: Session, node: UUID) -> Sequence[Attachment]:
    """Return all attachments of a node's cards, oldest first."""
    query = select(Attachment).join(Nic).where(Nic.node_id == node).order_by(Attachment.id)
    return session.scalars(query).all()


def beside(session: Session, node: UUID) -> Sequence[Attachment]:
    """Return the attachments of a node's cards that it does not boot over, oldest first."""
    booted = select(Boot.attachment_id)
    query = select(Attachment).join(Nic).where(Nic.node_id == node, Attachment.id.not_in(booted))
    return session.scalars(query.order_by(Attachment.id)).all()


def boot_network(session: Session, caller: Caller, ref: str, project: str | None) -> Network:
    """Find the network that a node is to boot on: one of the own project's, on which nobody else is.

    On a segment that several tenants are on, any of their nodes can take another one's address and answer its DHCP;
    so what carries a root file system is no such segment.

    Raises:
        NotFound: There is no such network for this caller.
        NotAllowed: Another project only offers it.
        WrongState: It is shared or public, or not ready.
    """
    network = find_owned(session, caller, Network, ref, Action.NETWORK_READ, project=project)
    home = owner(session, caller, Action.PROJECT_READ, project).id if project else caller.project
    strange = not caller.admin and network.project_id not in caller.roles
    if strange or home not in (None, network.project_id):
        raise NotAllowed(
            f"network {network.name} belongs to project {network.project.name}: "
            "nodes boot on networks of their own project only",
            next_step="boot on one of your own, and attach this one beside it: --tagged, or --nic NIC=NETWORK",
        )
    if network.visibility != "private":
        raise WrongState(
            f"network {network.name} is {network.visibility}: nodes boot where no other tenant's node is, "
            "which could answer in the gateway's name",
            next_step="boot on one that is private, and attach this one beside it: --tagged, or --nic NIC=NETWORK",
        )
    require_ready(network)
    return network


def require_ready(network: Network) -> None:
    """Refuse a network that is half-made, or about to go.

    Raises:
        WrongState: It is.
    """
    if network.state != "ready":
        raise WrongState(f"network {network.name} is {network.state}", next_step="wait until it is ready")


def plan(
    session: Session,
    settings: Networks,
    caller: Caller,
    node: Node,
    project: Project,
    request: Attach,
    *,
    boots_over: Nic,
    there: Sequence[Attachment],
) -> Attachment:
    """Return a new attachment of a node, beside the network that it boots on; its row is added.

    Args:
        session: The transaction.
        settings: Those of networks.
        caller: Who asks.
        node: The node.
        project: Whose node it is, or is about to be: its networks, and those that others offer to it, can be had.
        request: What is asked for.
        boots_over: The card that the node boots over.
        there: The attachments that the node has, or is about to have.

    Raises:
        NotFound: There is no such network for this project, or not for this caller.
        WrongState: The network is not ready.
        BadRequest: The node has no such card, or is on too many networks; or it cannot have that address, or needs
            one to be named.
        AlreadyExists: It is on the network already.
        InUse: The card has a network without a tag already, somebody else has the address, or none is left.
    """
    network = find_owned(
        session, caller, Network, request.network, Action.NETWORK_READ, project=str(project.id)
    )
    require_ready(network)
    nic = boots_over if request.nic is None else card(node, request.nic)
    if len(there) > ATTACHMENTS:
        raise BadRequest(
            f"node {node.name} would be on more than {ATTACHMENTS} networks", next_step="take some away"
        )
    for other in there:
        if other.network_id == network.id:
            raise AlreadyExists(
                f"node {node.name} is on network {network.name} already, or about to leave it",
                next_step=f"see how: bmi node show {node.name}",
            )
        if other.nic_id == nic.id and not request.tagged and not other.tagged:
            raise InUse(
                f"card {number_of(node, nic.id)} of node {node.name} has network {other.network.name} "
                "without a tag, and a card can have one such only",
                next_step=f"attach {network.name} tagged (--tagged), or to another card (--nic)",
            )
    row = Attachment(
        id=new_id(),
        nic_id=nic.id,
        network_id=network.id,
        tagged=request.tagged,
        address=str(choose_address(session, settings, network, nic, request.address)),
        nic=nic,
        network=network,
    )
    session.add(row)
    session.flush()
    return row
