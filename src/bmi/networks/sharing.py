"""Whose nodes may be attached to a network beside those of its own project: of nobody, of some projects, of all."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_own, find_owned, other_project
from bmi.boot.models import Boot
from bmi.errors import BadRequest, InUse, NotFound
from bmi.networks.attachments import require_ready
from bmi.networks.models import Attachment, Network, NetworkShare
from bmi.nodes.models import Nic, Node

_NAMED = 5  # nodes that an error names


def own_network(session: Session, caller: Caller, ref: str, project: str | None) -> Network:
    """Find a network that a caller may change.

    Raises:
        NotFound: There is none that the caller may know of.
        NotAllowed: The caller may use it, but not change it.
    """
    return find_own(
        session,
        caller,
        Network,
        ref,
        write=Action.NETWORK_WRITE,
        read=Action.NETWORK_READ,
        project=project,
        may="attach nodes to it",
        next_step="ask a manager of that project",
    )


def shares(session: Session, caller: Caller, ref: str, project: str | None) -> list[NetworkShare]:
    """Return with whom a network is shared, oldest first; its own project may know.

    Raises:
        NotFound: There is no such network for this caller.
    """
    network = find_owned(session, caller, Network, ref, Action.NETWORK_SHARES, project=project)
    query = select(NetworkShare).where(NetworkShare.network_id == network.id).order_by(NetworkShare.id)
    return list(session.scalars(query))


def share(session: Session, caller: Caller, ref: str, project: str | None, other: str) -> NetworkShare:
    """Let another project attach its nodes to a network; one that was private is `shared` then.

    Raises:
        NotFound: There is no such network for this caller; or no such project, see `other_project`.
        BadRequest: It is that project's own.
        InUse: A node boots on it.
        WrongState: It is half-made, or about to go.
    """
    network = own_network(session, caller, ref, project)
    require_ready(network)
    receiver = other_project(session, caller, other)
    if receiver.id == network.project_id:
        raise BadRequest(
            f"network {network.name} belongs to project {receiver.name}", next_step="name another project"
        )
    row = session.scalar(
        select(NetworkShare).where(
            NetworkShare.network_id == network.id, NetworkShare.project_id == receiver.id
        )
    )
    if row is None:
        row = NetworkShare(network_id=network.id, project_id=receiver.id)
        session.add(row)
    if network.visibility == "private":
        _refuse_booted(session, network)
        network.visibility = "shared"
    session.flush()
    return row


def unshare(session: Session, caller: Caller, ref: str, project: str | None, other: str) -> None:
    """Let a project attach no more nodes to a network.

    Raises:
        NotFound: There is no such network for this caller, or it is not shared with such a project.
        InUse: A node of that project is on it.
    """
    network = own_network(session, caller, ref, project)
    rows = session.execute(
        select(NetworkShare, Project.name)
        .join(Project, Project.id == NetworkShare.project_id)
        .where(NetworkShare.network_id == network.id)
    ).all()
    gone = [row for row, name in rows if other in (name, str(row.project_id))]
    if not gone:
        raise NotFound(
            f"network {network.name} is not shared with {other}",
            next_step=f"see with whom it is: bmi network shares {ref}",
        )
    if network.visibility == "shared":
        users = [row for row in attached(session, network) if row.nic.node.project_id == gone[0].project_id]
        _refuse_used(network, users)
    session.delete(gone[0])
    if len(rows) == 1 and network.visibility == "shared":
        network.visibility = "private"
    session.flush()


def publish(session: Session, caller: Caller, ref: str, project: str | None) -> Network:
    """Let every project attach its nodes to a network.

    Raises:
        NotFound: There is no such network for this caller.
        NotAllowed: The caller is no admin.
        InUse: A node boots on it.
        WrongState: It is half-made, or about to go.
    """
    network = own_network(session, caller, ref, project)
    authorize(caller, Action.NETWORK_PUBLISH, network.project_id, thing=f"network {network.name}")
    require_ready(network)
    if network.visibility == "private":
        _refuse_booted(session, network)
    network.visibility = "public"
    session.flush()
    return network


def withdraw(session: Session, caller: Caller, ref: str, project: str | None) -> Network:
    """Let only those attach nodes to a network with whom it is shared; nobody else, where that is nobody any more.

    Raises:
        NotFound: There is no such network for this caller.
        InUse: A node of somebody else is on it.
    """
    network = own_network(session, caller, ref, project)
    if network.visibility != "private":
        query = select(NetworkShare.project_id).where(NetworkShare.network_id == network.id)
        left = set(session.scalars(query))
        users = [
            row
            for row in attached(session, network)
            if row.nic.node.project_id not in {network.project_id, *left}
        ]
        _refuse_used(network, users)
        network.visibility = "shared" if left else "private"
        session.flush()
    return network


def attached(session: Session, network: Network) -> Sequence[Attachment]:
    """Return all attachments to a network, also those that are about to begin or to end, oldest first."""
    query = select(Attachment).where(Attachment.network_id == network.id).order_by(Attachment.id)
    return session.scalars(query.join(Nic).join(Node, Node.id == Nic.node_id)).all()


def who_uses(network: Network, rows: Sequence[Attachment]) -> str:
    """Return in words whose nodes are attached to a network."""
    nodes = [
        row.nic.node.name
        + (
            f" of project {row.nic.node.project.name}"
            if row.nic.node.project and row.nic.node.project_id != network.project_id
            else ""
        )
        for row in rows
    ]
    more = f" and {len(nodes) - _NAMED} more" if len(nodes) > _NAMED else ""
    return ", ".join(f"node {name}" for name in nodes[:_NAMED]) + more


def _refuse_booted(session: Session, network: Network) -> None:
    """Refuse to let others onto a network that nodes boot on, or are about to: they could answer for its gateway.

    Raises:
        InUse: A node does.
    """
    booted = set(session.scalars(select(Boot.attachment_id)))
    # One that is about to move there with its disk has no boot record there yet.
    rows = [
        row
        for row in attached(session, network)
        if row.id in booted or (row.state == "creating" and not row.tagged)
    ]
    if rows:
        raise InUse(
            f"network {network.name} stays private while nodes boot on it: {who_uses(network, rows)}",
            next_step="make another network to share, and attach nodes to it beside this one: bmi network create",
        )


def _refuse_used(network: Network, rows: Sequence[Attachment]) -> None:
    if rows:
        raise InUse(
            f"attached to network {network.name}: {who_uses(network, rows)}",
            next_step="have them detached first: bmi node detach NODE NETWORK",
        )
