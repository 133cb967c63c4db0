"""Looks at the switches: what the ports of nodes carry."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial
from uuid import UUID

from sqlalchemy import select

from bmi.api.doctor import Family
from bmi.api.nodes import Lease, NodeState
from bmi.api.nodes import Nic as NicEntry
from bmi.discovery.cabling import contradiction, heard_by_cards
from bmi.doctor.claims import claims
from bmi.doctor.codes import Code
from bmi.doctor.sheet import Check, Sheet
from bmi.drivers.switch import ISOLATED, PortState, PortVlans
from bmi.networks.service import vlans_of
from bmi.nodes.leases import lease_of
from bmi.nodes.models import Nic
from bmi.parts import Parts

_IN_USE = (NodeState.ACTIVE, NodeState.FAILED)


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at: each switch that a node is plugged into."""
    with parts.db.read() as session:
        nics = session.scalars(select(Nic)).all()
    plugged: defaultdict[str, list[Nic]] = defaultdict(list)
    for nic in nics:
        plugged[nic.switch].append(nic)
    return [
        Check(
            Family.SWITCH,
            f"switch {name}",
            partial(_switch, parts, name, there),
        )
        for name, there in plugged.items()
    ] + [Check(Family.SWITCH, "cables", partial(_cables, parts))]


def _cables(parts: Parts, sheet: Sheet) -> None:
    """Compare what nodes' cards heard from switches, when they told of it, with the inventory."""
    with parts.db.read() as session:
        nics = session.scalars(select(Nic)).all()
        heard = heard_by_cards(session, inventory=True)
    ports: dict[str, list[str]] = {}
    for nic in nics:
        neighbours = heard.get(nic.mac)
        if not neighbours:
            continue
        for name in parts.switches if not ports else ():
            ports[name] = [state.port for state in parts.switches[name].ports()]
        place = NicEntry(mac=nic.mac, switch=nic.switch, port=nic.port)
        if wrong := contradiction(parts.settings, ports, place, neighbours):
            sheet.note(Code.CABLE_DIFFERS, f"node {nic.node.name}", wrong.message, next_step=wrong.next_step)


def _switch(parts: Parts, name: str, nics: Sequence[Nic], sheet: Sheet) -> None:
    if name not in parts.switches:
        for nic in nics:
            message = f"there is no switch {name} in the settings of this process"
            sheet.note(Code.PORT_UNKNOWN, _thing(nic), message)
        return
    before = _wanted(parts, nics)
    states = {state.port: state for state in parts.switches[name].ports()}
    real = {port: state.vlans for port, state in states.items()}
    after = _wanted(parts, nics)
    for nic in nics:
        if lease_of(parts.leases, nic.node) is Lease.ENDED:
            continue  # it is somebody else's, which `bmi.doctor.leases` tells of
        found = real.get(nic.port)
        if found is None:
            sheet.note(Code.PORT_UNKNOWN, _thing(nic), f"switch {name} has no port {nic.port}")
            continue
        sheet.count("ports_in_use", found != ISOLATED)
        _cable(parts, sheet, nic, states[nic.port])
        wanted = before.get(nic.id)
        if wanted is None or wanted != after.get(nic.id) or found == wanted:
            continue  # as it should be, or somebody changes it at this moment
        message = f"carries VLAN {found}, should carry {wanted}"
        sheet.note(Code.PORT_NOT_ISOLATED if wanted == ISOLATED else Code.PORT_DIFFERS, _thing(nic), message)


def _cable(parts: Parts, sheet: Sheet, nic: Nic, state: PortState) -> None:
    """Note a cable that ends nowhere, or elsewhere, as far as the switch can tell."""
    heard = parts.switches[nic.switch].heard_at(nic.mac)
    if heard and nic.port not in heard:
        sheet.note(Code.CARD_ELSEWHERE, _thing(nic), f"{nic.mac} is heard at port {', '.join(heard)}")
    elif state.link is False and nic.node.state in _IN_USE and state.vlans != ISOLATED:
        sheet.note(Code.PORT_WITHOUT_LINK, _thing(nic), "has no link")


def _wanted(parts: Parts, nics: Sequence[Nic]) -> dict[UUID, PortVlans]:
    """Return what ports should carry, those left out that an operation is about to change."""
    with parts.db.read() as session:
        claimed = claims(session)
        return {nic.id: vlans_of(session, nic.id) for nic in nics if nic.node_id not in claimed}


def _thing(nic: Nic) -> str:
    return f"port {nic.port} of switch {nic.switch} (node {nic.node.name})"
