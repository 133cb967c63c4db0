"""Follows a node's boot to a milestone, and says what is wrong when it does not get there."""

from collections.abc import Callable
from uuid import UUID

from sqlalchemy import and_, or_, select
from sqlalchemy.orm import Session

from bmi.api.nodes import Milestone
from bmi.boot.dhcp_log import IPXE
from bmi.boot.models import Boot
from bmi.boot.service import MILESTONES
from bmi.db import now
from bmi.errors import DeadlineExceeded
from bmi.events import Event
from bmi.parts import Parts
from bmi.wait import wait_until

_POLL = 0.1  # seconds between two looks at the record

# Kinds of events, as `monitor` and `node_app` note them.
_LOADED = ("tftp.sent", "http.sent")
_ASKED = "dhcp.discover"

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
            loaded = _loaded_in_vain(session, boot)
        raise diagnosis(boot, deadline, loaded) from None
    taken = (now() - boot.started_at).total_seconds() if boot.started_at else 0
    return f"{_REACHED[until]}, {taken:.1f} s after power-on"


def diagnosis(boot: Boot, deadline: float, loaded: str | None = None) -> DeadlineExceeded:
    """Return the error for a boot that did not get further, with the place to look at first.

    Args:
        boot: Its record.
        deadline: Seconds that it was given.
        loaded: The file that its firmware loaded last, if that gave no sign of life.
    """
    nic, node = boot.attachment.nic, boot.node.name
    network = boot.attachment.network
    port = f"port {nic.port} of switch {nic.switch}"
    match boot.milestone:
        case None | Milestone.POWER:
            cause = f"no DHCP request from {nic.mac} in {deadline:g} s"
            advice = (
                f"check the cabling of {port}, that it carries VLAN {network.vlan}, "
                "and that the firmware boots from this card"
            )
        case Milestone.DHCP if loaded:
            cause = f"the firmware of node {node} loaded {loaded}, but that did not start"
            advice = (
                "look at its console; with Secure Boot on, firmware refuses what is not signed for it, see "
                "docs/firmware.md"
            )
        case Milestone.DHCP:
            cause = (
                f"node {node} got its address {boot.attachment.address}, but never fetched its boot script"
            )
            advice = (
                "look at its console: the firmware cannot load iPXE, or iPXE cannot reach the gateway by HTTP"
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


def _loaded_in_vain(session: Session, boot: Boot) -> str | None:
    """Return the file that a node's firmware loaded last, unless iPXE was heard of after that."""
    since = select(Event.kind, Event.message).where(
        Event.node_id == boot.node_id,
        Event.at >= (boot.started_at or boot.created_at),
        or_(Event.kind.in_(_LOADED), and_(Event.kind == _ASKED, Event.message == IPXE)),
    )
    last = session.execute(since.order_by(Event.at.desc(), Event.id.desc()).limit(1)).first()
    return last.message if last is not None and last.kind in _LOADED else None


def _came_to(boot: Boot, until: Milestone) -> bool:
    return boot.milestone is not None and MILESTONES.index(boot.milestone) >= MILESTONES.index(until)
