"""Follows a node's boot to a milestone, and says what is wrong when it does not get there."""

import logging
from collections.abc import Callable
from uuid import UUID

from sqlalchemy import select

from bmi.api.nodes import Milestone
from bmi.boot.models import Boot
from bmi.boot.service import MILESTONES
from bmi.db import now
from bmi.errors import DeadlineExceeded, HelperUnavailable, SettingsInvalid, SwitchError
from bmi.events import Event
from bmi.networks.addressing import FOREIGN
from bmi.networks.service import switch_of
from bmi.parts import Parts
from bmi.wait import wait_until

log = logging.getLogger(__name__)

_EVENTS = 1000  # read of a boot, at the most
_POLL = 0.1  # seconds between two looks at the record

_REACHED = {
    Milestone.POWER: "the node is on",
    Milestone.DHCP: "the node has its address",
    Milestone.SCRIPT: "the node fetched its boot script",
    Milestone.LOGIN: "the node is logged in to its disk",
    Milestone.UP: "the operating system is up",
}


def wait_for(
    parts: Parts,
    id: UUID,
    until: Milestone,
    deadline: float,
    *,
    tell: Callable[[str, float], None],
    stop: Callable[[], None],
) -> str:
    """Wait until a node's boot has come to a milestone.

    Args:
        parts: The parts.
        id: The boot record.
        until: The milestone.
        deadline: Seconds from power-on.
        tell: Told what was reached, and which part of the way that is.
        stop: Raises when nobody wants to wait any longer.

    Returns:
        A line that says what was reached, and when.

    Raises:
        DeadlineExceeded: It did not come that far; the error says what to look at.
    """
    seen: Milestone | None = None

    def look() -> Boot | None:
        nonlocal seen
        stop()
        with parts.db.read() as session:
            boot = session.get_one(Boot, id)
        if boot.milestone is not None and boot.milestone is not seen:
            seen = boot.milestone
            tell(_REACHED[seen], MILESTONES.index(seen) / MILESTONES.index(Milestone.UP))
        return boot if _came_to(boot, until) else None

    with parts.db.read() as session:
        boot = session.get_one(Boot, id)
    passed = (now() - boot.started_at).total_seconds() if boot.started_at else 0
    try:
        boot = wait_until(look, deadline=max(deadline - passed, 0), what=str(until), next_step="", poll=_POLL)
    except DeadlineExceeded:
        with parts.db.read() as session:
            boot = session.get_one(Boot, id)
        raise diagnosis(parts, boot, deadline) from None
    taken = (now() - boot.started_at).total_seconds() if boot.started_at else 0
    return f"{_REACHED[until]}, {taken:.1f} s after power-on"


def diagnosis(parts: Parts, boot: Boot, deadline: float) -> DeadlineExceeded:
    """Return the error for a boot that did not get further, with the place to look at first."""
    node = boot.node.name
    match boot.milestone:
        case None | Milestone.POWER:
            cause, advice = _silence(parts, boot, deadline)
        case Milestone.DHCP:
            cause = (
                f"node {node} got its address {boot.attachment.address}, but never fetched its boot script"
            )
            advice = (
                "look at its console: the firmware cannot load iPXE by TFTP, or not reach the gateway by HTTP"
            )
        case Milestone.SCRIPT:
            cause = f"node {node} fetched its boot script, but did not log in to its disk"
            advice = "look at its console for iPXE's error; the MTU between node and gateway is a usual cause"
        case _:
            cause = f"node {node} logged in to its disk, but did not report to be up in {deadline:g} s"
            advice = (
                "look at its console; an image without a first-boot report needs --until login instead of up"
            )
    return DeadlineExceeded(cause, next_step=advice)


def _silence(parts: Parts, boot: Boot, deadline: float) -> tuple[str, str]:
    """Say why a node got no address: what it was heard to do, then what its switch sees, then a guess."""
    nic, network = boot.attachment.nic, boot.attachment.network
    port = f"port {nic.port} of switch {nic.switch}"
    heard = _heard(parts, boot)
    if network.dhcp in FOREIGN and (refusal := heard.get("boot.refused")):
        return (
            f"node {boot.node.name} asked, and was refused: {refusal}",
            f"let the other DHCP server give {boot.attachment.address} to {nic.mac}, or provision the node with "
            "the address that it has: --address",
        )
    if "dhcp.discover" in heard:
        return (
            f"{nic.mac} asked for an address, was offered one, and took none in {deadline:g} s",
            f"another DHCP server may answer on network {network.name} before BMI does: bmi doctor looks for one",
        )
    link, elsewhere = _seen_by_switch(parts, boot)
    if elsewhere:
        return (
            f"no DHCP request from {nic.mac}: the switch heard that card at {elsewhere}, not at {port}",
            f"plug its cable into {port}, or correct the port in the inventory",
        )
    if link is False:
        return (
            f"no DHCP request from {nic.mac}: {port} has no link",
            "check that the cable is plugged in at both ends, and that the card has power",
        )
    cause = f"no DHCP request from {nic.mac} in {deadline:g} s"
    if network.dhcp in FOREIGN:
        cause = f"no request for a boot script from {nic.mac} in {deadline:g} s"
    up = f"{port} has a link; " if link else ""
    return cause, (
        f"{up}check the cabling of {port}, that it carries VLAN {network.vlan}, "
        "and that the firmware boots from this card"
    )


def _heard(parts: Parts, boot: Boot) -> dict[str, str]:
    """Return the last message of each kind of event of a boot, since its node was switched on."""
    since = Event.at >= (boot.started_at or boot.created_at)
    kinds = Event.kind.in_(("dhcp.discover", "boot.refused"))
    with parts.db.read() as session:
        found = session.scalars(
            select(Event).where(Event.node_id == boot.node_id, kinds, since).order_by(Event.id)
        )
        return {event.kind: event.message for event in found.fetchmany(_EVENTS)}


def _seen_by_switch(parts: Parts, boot: Boot) -> tuple[bool | None, str | None]:
    """Ask a card's switch whether its port has a link, and where else it hears the card, if anywhere."""
    nic = boot.attachment.nic
    try:
        switch = switch_of(parts, nic.switch)
        link, ports = switch.port(nic.port).link, switch.heard_at(nic.mac)
    except (SwitchError, SettingsInvalid, HelperUnavailable) as error:
        log.warning("switch %s cannot say what it sees of %s: %s", nic.switch, nic.mac, error)
        return None, None
    if not ports or nic.port in ports:
        return link, None
    return link, f"port {', '.join(ports)}"


def _came_to(boot: Boot, until: Milestone) -> bool:
    return boot.milestone is not None and MILESTONES.index(boot.milestone) >= MILESTONES.index(until)
