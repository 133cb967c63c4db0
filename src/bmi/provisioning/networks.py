"""Networks come and go: the gateway's leg, DHCP and boot scripts with them."""

from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned, flush_new, owner
from bmi.api.networks import NetworkCreate
from bmi.boot import service as boot
from bmi.errors import InUse, NotAllowed
from bmi.ids import new_id
from bmi.networks.models import Attachment, Network
from bmi.networks.service import plan
from bmi.parts import Parts
from bmi.provisioning.engine import Run, workflow
from bmi.provisioning.journal import Ending
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
    network.id = new_id()
    session.add(network)
    flush_new(session, f"network {network.name} in project {project.name}")
    return ask_operation(
        session,
        caller,
        "network.create",
        f"network {network.name}",
        project=project.id,
        network=network.id,
        result={"network": network.name, "vlan": network.vlan, "subnet": network.subnet},
    )


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


def settle_delete(session: Session, operation: Operation, ending: Ending) -> None:
    """Forget a network that is gone; one that could not go stays `removing`, to be removed again."""
    if ending is Ending.SUCCEEDED:
        session.delete(session.get_one(Network, operation.network_id))


@workflow("network.create", settle=settle_create)
def create(run: Run) -> None:
    """Bring the gateway onto a network."""
    parts, network = run.parts, _network(run)

    def leg() -> str:
        with parts.db.read() as session:
            row = session.get_one(Network, network)
        made = boot.leg_of(parts, row)
        return f"{made.interface} in {made.namespace}, {made.address}, VLAN {row.vlan}"

    def serve() -> str:
        boot.apply_dhcp(parts, network)
        return "DHCP, TFTP and boot scripts"

    def take_down() -> str:
        boot.take_down(parts, network)
        return "gone"

    with run.all_or_nothing():
        run.step("leg", leg, undo=take_down)
        run.step("boot service", serve)


@workflow("network.delete", settle=settle_delete, cancellable=False)
def delete(run: Run) -> None:
    """Take the gateway off a network."""
    parts, network = run.parts, _network(run)

    def take_down() -> str:
        boot.take_down(parts, network)
        return "leg, DHCP and boot scripts are gone"

    run.step("leg", take_down)


def _network(run: Run) -> UUID:
    assert run.operation.network_id is not None  # noqa: S101 - the claim of these verbs
    return run.operation.network_id
