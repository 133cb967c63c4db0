"""Networks come and go: the gateway's leg, DHCP and boot scripts with them."""

from typing import Any
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize
from bmi.access.service import find_owned, flush_new, owner
from bmi.api.networks import NetworkCreate, NetworkUpdate
from bmi.api.operations import Ending
from bmi.errors import GatewayUnavailable, InUse, NotAllowed, WrongState
from bmi.gateways import service as gateways
from bmi.gateways.orders import at_gateway
from bmi.networks import addressing
from bmi.networks.models import Attachment, Network
from bmi.networks.service import plan
from bmi.parts import Parts
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.models import Operation
from bmi.provisioning.service import ask as ask_operation


def ask_create(session: Session, parts: Parts, caller: Caller, request: NetworkCreate) -> Operation:
    """Choose a VLAN and a subnet for a new network.

    Raises:
        AlreadyExists: The project has a network of that name, or the VLAN is taken.
        NotAllowed: The caller is no admin and asks for a particular VLAN.
        InUse: The pool is used up.
    """
    project = owner(session, caller, Action.NETWORK_WRITE, request.project)
    if request.vlan is not None and not caller.admin:
        raise NotAllowed("only admins choose a network's VLAN", next_step="leave the VLAN out")
    network = plan(session, parts.settings.networks, project, request)
    session.add(network)
    flush_new(session, f"network {network.name} in project {project.name}")
    return _ask_create(
        session, caller, network, request.model_dump(mode="json") | {"project": str(project.id)}
    )


def _ask_create(session: Session, caller: Caller, network: Network, asked: dict[str, Any]) -> Operation:
    return ask_operation(
        session,
        caller,
        "network.create",
        f"network {network.name}",
        project=network.project_id,
        network=network.id,
        result={"network": network.name, "vlan": network.vlan, "subnet": network.subnet},
        asked=asked,
    )


def create_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a network: for the one that was half-made, if there is one, else for a new one."""
    asked = operation.asked or {}
    network = session.get(Network, operation.network_id)
    if network is None:
        return ask_create(session, parts, caller, NetworkCreate.model_validate(asked))
    authorize(caller, Action.NETWORK_WRITE, network.project_id, thing=f"network {network.name}")
    return _ask_create(session, caller, network, asked)


def ask_update(
    session: Session, parts: Parts, caller: Caller, ref: str, request: NetworkUpdate, project: str | None
) -> Operation:
    """Claim a network, and write down what is to be otherwise.

    Raises:
        BadRequest: That cannot be.
        InUse: Another operation runs on it.
        NotFound: There is no such network for this caller.
        WrongState: It is about to be made or removed.
    """
    network = find_owned(session, caller, Network, ref, Action.NETWORK_WRITE, project=project)
    if network.state != "ready":
        raise WrongState(f"network {network.name} is {network.state}", next_step="wait until it is ready")
    before = addressing.saved(network)
    addressing.change(session, parts.settings.networks, network, request)
    return ask_operation(
        session,
        caller,
        "network.update",
        f"network {network.name}",
        project=network.project_id,
        network=network.id,
        request={"before": before},
        asked=request.model_dump(mode="json", exclude_unset=True),
    )


def update_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a network to be otherwise."""
    request = NetworkUpdate.model_validate(operation.asked or {})
    return ask_update(session, parts, caller, str(operation.network_id), request, None)


def delete_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask again for a network to be removed."""
    return ask_delete(session, caller, str(operation.network_id), None)


def ask_delete(session: Session, caller: Caller, ref: str, project: str | None) -> Operation:
    """Claim a network that nobody uses, to be removed.

    Raises:
        InUse: Nodes are attached to it, or another operation runs on it.
        NotFound: There is no such network for this caller.
    """
    network = find_owned(session, caller, Network, ref, Action.NETWORK_WRITE, project=project)
    attached = session.scalar(select(Attachment).where(Attachment.network_id == network.id).limit(1))
    if attached:
        name = attached.nic.node.name
        raise InUse(
            f"node {name} is attached to network {network.name}",
            next_step=f"give it back first: bmi node deprovision {name}",
        )
    network.state = "removing"
    return ask_operation(
        session,
        caller,
        "network.delete",
        f"network {network.name}",
        project=network.project_id,
        network=network.id,
    )


def settle_create(session: Session, operation: Operation, ending: Ending) -> None:
    """Write how making a network left it."""
    network = session.get_one(Network, operation.network_id)
    if ending is Ending.SUCCEEDED:
        network.state = "ready"
    elif ending is Ending.UNDONE:
        session.delete(network)


def settle_update(session: Session, operation: Operation, ending: Ending) -> None:
    """Give a network back what was changed in vain, also where no step ran that could be undone."""
    if ending is Ending.UNDONE:
        addressing.restore(session.get_one(Network, operation.network_id), operation.request["before"])


def settle_delete(session: Session, operation: Operation, ending: Ending) -> None:
    """Forget a network that is gone; one that could not go stays `removing`, to be removed again."""
    if ending is Ending.SUCCEEDED:
        session.delete(session.get_one(Network, operation.network_id))


@workflow("network.create", settle=settle_create, again=create_again)
def create(run: Run) -> None:
    """Bring the gateways onto a network."""
    parts, network = run.parts, _network(run)

    def legs() -> str:
        made = {name: at_gateway(parts, id, "network", network)["leg"] for name, id in _gateways(parts)}
        return "; ".join(f"{name}: {leg}" for name, leg in made.items())

    with run.all_or_nothing():
        run.step("gateways", legs, undo=lambda: _take_down(parts, network))


@workflow("network.update", settle=settle_update, again=update_again)
def update(run: Run) -> None:
    """Let the gateways tell the cards on a network what they are told from now on."""
    parts, network = run.parts, _network(run)

    def tell() -> str:
        names = [name for name, id in _gateways(parts) if at_gateway(parts, id, "network", network)]
        return f"told by {', '.join(names)}"

    def tell_as_before() -> str:
        with parts.db.write() as session:
            addressing.restore(session.get_one(Network, network), run.request["before"])
        return tell()

    with run.all_or_nothing():
        run.step("gateways", tell, undo=tell_as_before)


@workflow("network.delete", settle=settle_delete, again=delete_again)
def delete(run: Run) -> None:
    """Take the gateways off a network."""
    run.next_step_of_cancelled = "remove it again: bmi network delete"
    run.step("gateways", lambda: _take_down(run.parts, _network(run)))


def _take_down(parts: Parts, network: UUID) -> str:
    """Take all gateways off a network that are alive; others do so when they come back and look."""
    names = [name for name, id in _gateways(parts) if at_gateway(parts, id, "take down", network) == {}]
    return f"legs, DHCP and boot scripts are gone from {', '.join(names)}"


def _gateways(parts: Parts) -> list[tuple[str, UUID]]:
    """Return the names and ids of the gateways that have a leg on each network.

    Raises:
        GatewayUnavailable: There is none.
    """
    with parts.db.read() as session:
        found = [(row.name, row.id) for row in gateways.alive(parts.db, session) if row.held_by_id is None]
    if not found:
        raise GatewayUnavailable("no gateway is alive", next_step="start one: bmi gateway")
    return found


def _network(run: Run) -> UUID:
    assert run.operation.network_id is not None  # noqa: S101 - the claim of these verbs
    return run.operation.network_id
