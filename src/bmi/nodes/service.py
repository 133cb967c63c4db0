"""Use cases of nodes: registering them, and reaching their management controllers."""

from uuid import UUID

from sqlalchemy import exists, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bmi.api.nodes import NodeCreate, NodeState
from bmi.audit import trail
from bmi.drivers.power import SAID, Bmc, Power, PowerState
from bmi.errors import AlreadyExists, SettingsInvalid, WrongState
from bmi.networks.service import switch_of
from bmi.nodes.models import Nic, Node
from bmi.parts import Parts


def register(session: Session, parts: Parts, request: NodeCreate) -> Node:
    """Take a node into the inventory.

    Raises:
        SettingsInvalid: Its power driver or switch is not in the settings.
        SwitchPortUnknown: Its switch has no such port.
        AlreadyExists: Its name, a MAC or a switch port belongs to a node already.
    """
    power_of(parts, request.bmc.driver)
    for nic in request.nics:
        switch_of(parts, nic.switch).port(nic.port)
    return add(session, parts, request)


def add(session: Session, parts: Parts, request: NodeCreate) -> Node:
    """Write a node down whose power driver and ports are known to be there.

    Raises:
        AlreadyExists: Its name, a MAC or a switch port belongs to a node already.
    """
    node = Node(
        name=request.name,
        bmc_driver=request.bmc.driver,
        bmc_address=request.bmc.address,
        bmc_username=request.bmc.username,
        bmc_password=parts.vault.seal(request.bmc.password.get_secret_value()),
        bmc_options=dict(request.bmc.options),
        nics=[
            Nic(position=position, mac=nic.mac, switch=nic.switch, port=nic.port)
            for position, nic in enumerate(request.nics)
        ],
    )
    trail.makes(f"node {node.name}")
    _refuse_taken(session, node)
    session.add(node)
    try:
        session.flush()
    except IntegrityError as error:
        raise AlreadyExists(
            f"node {node.name} names a MAC or a switch port twice", next_step="correct its network cards"
        ) from error
    return node


def remove(session: Session, node: Node) -> None:
    """Take a node out of the inventory.

    Raises:
        WrongState: It is in use.
    """
    if node.state not in (NodeState.AVAILABLE, NodeState.MAINTENANCE):
        way = "release" if node.state is NodeState.ALLOCATED else "deprovision"
        raise WrongState(
            f"node {node.name} is {node.state}", next_step=f"give it back first: bmi node {way} {node.name}"
        )
    session.delete(node)


def power_of(parts: Parts, driver: str) -> Power:
    """Return a power driver by its name.

    Raises:
        SettingsInvalid: The settings have none of that name.
    """
    try:
        return parts.powers[driver]
    except KeyError:
        raise SettingsInvalid(
            f"there is no power driver {driver!r} in the settings",
            next_step=f"add [power.{driver}], or use one of: {', '.join(sorted(parts.powers)) or 'none'}",
        ) from None


def bmc_of(parts: Parts, id: UUID) -> tuple[Power, Bmc]:
    """Return how to reach a node's management controller."""
    with parts.db.read() as session:
        node = session.get_one(Node, id)
    return power_of(parts, node.bmc_driver), Bmc(
        address=node.bmc_address,
        username=node.bmc_username,
        password=parts.vault.open(node.bmc_password),
        options=node.bmc_options,
    )


def power_state(parts: Parts, id: UUID) -> PowerState:
    """Ask a node's management controller whether the node has power."""
    power, bmc = bmc_of(parts, id)
    return power.state(bmc)


def say_power(session: Session, parts: Parts, node: Node, state: PowerState) -> None:
    """Note that somebody has switched a node by hand, which an operation may wait for.

    Raises:
        WrongState: Its power driver asks a machine for that.
    """
    if not getattr(power_of(parts, node.bmc_driver), "by_hand", False):
        raise WrongState(
            f"node {node.name} is not switched by hand: its power driver {node.bmc_driver} asks its controller",
            next_step=f"have it switched: bmi node power {node.name} {state}",
        )
    node.bmc_options = {**node.bmc_options, SAID: state.value}


def _refuse_taken(session: Session, node: Node) -> None:
    if session.scalar(select(exists().where(Node.name == node.name))):
        raise AlreadyExists(f"node {node.name} exists already", next_step="choose another name")
    for nic in node.nics:
        other = session.scalar(
            select(Nic).where((Nic.mac == nic.mac) | ((Nic.switch == nic.switch) & (Nic.port == nic.port)))
        )
        if other:
            raise AlreadyExists(
                f"MAC {nic.mac} or port {nic.port} of switch {nic.switch} belongs to node {other.node.name}",
                next_step=f"correct it, or delete node {other.node.name} first",
            )
