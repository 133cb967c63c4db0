"""Use cases of single nodes: removing them, and reaching their management controllers."""

from uuid import UUID

from sqlalchemy import delete
from sqlalchemy.orm import Session

from bmi.api.nodes import NodeState
from bmi.drivers.power import SAID, Bmc, Power, PowerState
from bmi.errors import SettingsInvalid, WrongState
from bmi.nodes.models import Node, NodeHardware
from bmi.parts import Parts


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
    session.execute(delete(NodeHardware).where(NodeHardware.node_id == node.id))
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


def by_hand(parts: Parts, driver: str) -> bool:
    """Say whether people switch the nodes of a power driver."""
    return bool(getattr(parts.powers.get(driver), "by_hand", False))


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
    if not by_hand(parts, node.bmc_driver):
        raise WrongState(
            f"node {node.name} is not switched by hand: its power driver {node.bmc_driver} asks its controller",
            next_step=f"have it switched: bmi node power {node.name} {state}",
        )
    node.bmc_options = {**node.bmc_options, SAID: state.value}
