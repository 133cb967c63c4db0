"""Use cases of discovery: taking reports in, and making nodes of the machines that sent them."""

from collections.abc import Mapping
from datetime import timedelta
from ipaddress import IPv4Address
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from bmi.api import discovery as wire
from bmi.api.hardware import Hardware
from bmi.api.nodes import BmcCreate, NodeCreate
from bmi.api.nodes import Nic as NicEntry
from bmi.db import now
from bmi.discovery.cabling import place_of
from bmi.discovery.models import Discovered
from bmi.discovery.report import Report
from bmi.errors import BadRequest, Miscabled, NotFound
from bmi.nodes import inventory
from bmi.nodes.inventory import Outside
from bmi.nodes.models import Nic, Node
from bmi.parts import Parts


def take(parts: Parts, report: Report, address: str) -> None:
    """Keep what a machine told of itself, instead of what it told before; of too many, the oldest go.

    Args:
        parts: The parts.
        report: What it told.
        address: Where that came from.
    """
    settings = parts.settings.discovery
    facts = report.hardware.model_dump(mode="json")
    with parts.db.write() as session:
        row = session.scalar(select(Discovered).where(Discovered.mac == report.mac))
        if row is None:
            session.add(Discovered(mac=report.mac, address=address, facts=facts, seen_at=now()))
        else:
            row.address, row.facts, row.seen_at = address, facts, now()
            row.reports += 1
        session.flush()
        _sweep(session, settings.keep_days)
        last = select(Discovered.id).order_by(Discovered.seen_at.desc(), Discovered.id.desc())
        if over := session.scalars(last.offset(settings.pending)).all():
            session.execute(delete(Discovered).where(Discovered.id.in_(over)))


def sweep(parts: Parts) -> None:
    """Forget the machines that have not been heard of for long."""
    days = parts.settings.discovery.keep_days
    with parts.db.read() as session:
        if not session.scalar(select(func.count()).where(Discovered.seen_at < now() - timedelta(days=days))):
            return
    with parts.db.write() as session:
        _sweep(session, days)


def find(session: Session, ref: str) -> Discovered:
    """Return a machine by its id, or by the MAC address of the card that it booted from.

    Raises:
        NotFound: There is none.
    """
    try:
        row = session.get(Discovered, UUID(ref))
    except ValueError:
        row = session.scalar(select(Discovered).where(Discovered.mac == ref.lower()))
    if row is None:
        raise NotFound(
            f"no machine {ref} was discovered, or it was enrolled or forgotten",
            next_step="see which there are: bmi node discovered",
        )
    return row


def view(session: Session, row: Discovered) -> wire.Discovered:
    """Return a machine as it goes over the wire."""
    hardware = Hardware.model_validate(row.facts)
    macs = [card.mac for card in hardware.cards]
    owner = select(Node.name).join(Nic, Nic.node_id == Node.id).where(Nic.mac.in_(macs)).limit(1)
    return wire.Discovered(
        id=row.id,
        mac=row.mac,
        address=IPv4Address(row.address),
        node=session.scalar(owner),
        hardware=hardware,
        reports=row.reports,
        seen_at=row.seen_at,
        created_at=row.created_at,
    )


def places(parts: Parts, row: Discovered, outside: Outside) -> list[NicEntry]:
    """Return where a machine's cards are plugged in, as far as they heard it; the one that it booted from first."""
    return list(_places(parts, Hardware.model_validate(row.facts), row.mac, outside).values())


def enrol(session: Session, parts: Parts, row: Discovered, request: wire.Enrol, outside: Outside) -> Node:
    """Make a node of a machine that was discovered; what it told stays with the node.

    Raises:
        BadRequest: It is not known where its cards are plugged in, or how to reach its management controller;
            or a card is named that it does not have.
        Miscabled: A card is not plugged in where the request says.
        AlreadyExists: Its name, a MAC or a switch port belongs to a node already.
        SettingsInvalid: Its power driver or switch is not in the settings.
        SwitchPortUnknown: Its switch has no such port.
    """
    hardware = Hardware.model_validate(row.facts)
    nics = request.nics if request.nics is not None else _found_nics(parts, hardware, row.mac, outside)
    known = {card.mac for card in hardware.cards}
    for nic in nics:
        if nic.mac not in known:
            raise BadRequest(
                f"the machine {row.mac} has no card {nic.mac}",
                next_step=f"name cards that it has: {', '.join(sorted(known))}",
            )
    if row.mac not in {nic.mac for nic in nics}:
        raise BadRequest(
            f"card {row.mac}, from which the machine booted, is not among the node's",
            next_step="name it too, or boot the machine from another one",
        )
    bmc = request.bmc
    made = NodeCreate(
        name=request.name,
        bmc=BmcCreate(
            driver=bmc.driver,
            address=bmc.address or _bmc_address(hardware, bmc.driver),
            username=bmc.username,
            password=bmc.password,
            options=bmc.options,
        ),
        nics=nics,
    )
    return inventory.register(session, parts, made, outside)


def _places(parts: Parts, hardware: Hardware, boot: str, outside: Outside) -> Mapping[str, NicEntry]:
    found: dict[str, NicEntry] = {}
    for card in sorted(hardware.cards, key=lambda card: card.mac != boot):
        for neighbour in card.neighbours:
            if place := place_of(parts.settings, outside.known, neighbour):
                switch, port = place
                found.setdefault(card.mac, NicEntry(mac=card.mac, switch=switch, port=port))
    return found


def _found_nics(parts: Parts, hardware: Hardware, boot: str, outside: Outside) -> list[NicEntry]:
    found = _places(parts, hardware, boot, outside)
    if boot not in found:
        card = next(card for card in hardware.cards if card.mac == boot)
        said = "; ".join(f"{each.switch or each.chassis} port {each.port}" for each in card.neighbours)
        raise BadRequest(
            f"nobody knows where card {boot} is plugged in: by LLDP it heard {said or 'nothing'}",
            next_step="say it: --nic MAC=SWITCH:PORT; or let the switch send LLDP, and say how it calls itself: "
            "switches.NAME.lldp_name",
        )
    taken: dict[tuple[str, str], str] = {}
    for nic in found.values():
        other = taken.setdefault((nic.switch, nic.port), nic.mac)
        if other != nic.mac:
            raise Miscabled(
                f"cards {other} and {nic.mac} both hear port {nic.port} of switch {nic.switch} (LLDP)",
                next_step="there is another switch between, or one forwards LLDP: say where they are: --nic",
            )
    return list(found.values())


def _bmc_address(hardware: Hardware, driver: str) -> str:
    if hardware.bmc_address is None:
        raise BadRequest(
            "the machine did not tell the address of its management controller",
            next_step="say it: --bmc-address",
        )
    host = f"[{hardware.bmc_address}]" if ":" in hardware.bmc_address else hardware.bmc_address
    return f"https://{host}" if driver == "redfish" else hardware.bmc_address


def _sweep(session: Session, days: float) -> None:
    session.execute(delete(Discovered).where(Discovered.seen_at < now() - timedelta(days=days)))
