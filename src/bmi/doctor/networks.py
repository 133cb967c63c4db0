"""Looks at the networks of the gateway that this process is: legs, DHCP, boot scripts."""

from collections.abc import Mapping
from functools import partial
from uuid import UUID

from sqlalchemy import select

from bmi import netns
from bmi.api.doctor import Family
from bmi.boot import service as boot
from bmi.boot import tftp
from bmi.boot.dhcp_conf import DhcpMode
from bmi.boot.leases import stands
from bmi.boot.models import Boot
from bmi.doctor.claims import claims
from bmi.doctor.codes import Code
from bmi.doctor.environment import listeners
from bmi.doctor.exports import note_takers
from bmi.doctor.foreign_dhcp import offers
from bmi.doctor.sheet import Check, Sheet
from bmi.drivers.leg import Leg
from bmi.gateways import service as gateways
from bmi.networks.addressing import FOREIGN
from bmi.networks.models import Attachment, Network
from bmi.parts import Parts

MTU = 1500  # bytes; what nodes send on Ethernet unless they are told otherwise
_DHCP, _TFTP = 67, 69  # UDP ports
_ANSWER = 5.0  # seconds that a dnsmasq gets


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at: each network that this gateway is on, or should be."""
    here = parts.gateway
    before = _known(parts)
    legs = {leg.network: leg for leg in here.legs.legs()}
    servers = set(here.dnsmasq.running())
    wanted = _wanted(parts)
    strange = (legs.keys() | servers) - before
    return [
        Check(Family.LEG, "legs", partial(_count, parts, legs, servers)),
        *(
            Check(Family.BOOT, f"network {row.name}", partial(_network, parts, row, legs.get(row.id)))
            for row in wanted.values()
        ),
        *(Check(Family.LEG, f"network {id}", partial(_orphan, parts, id)) for id in strange),
    ]


def probes(parts: Parts) -> list[Check]:
    """Return the networks that are to be asked for foreign DHCP servers."""
    legs = {leg.network: leg for leg in parts.gateway.legs.legs() if netns.exists(leg.namespace)}
    return [
        Check(Family.BOOT, f"DHCP on network {row.name}", partial(_probe, parts, row, legs[row.id]))
        for row in _wanted(parts).values()
        if row.id in legs
    ]


def _wanted(parts: Parts) -> dict[UUID, Network]:
    """Return the networks that this gateway should be on, and that nobody is about to make or remove."""
    with parts.db.read() as session:
        if parts.gateway.id not in gateways.acting(session, parts.gateway):
            return {}
        claimed = claims(session)
        rows = session.scalars(select(Network).where(Network.state == "ready")).all()
        return {row.id: row for row in rows if row.id not in claimed}


def _known(parts: Parts) -> set[UUID]:
    with parts.db.read() as session:
        return set(session.scalars(select(Network.id)))


def _count(parts: Parts, legs: Mapping[UUID, Leg], servers: set[UUID], sheet: Sheet) -> None:
    sheet.count("legs", len(legs))
    sheet.count("dhcp_servers", len(servers))
    sheet.count("leases", sum(len(parts.gateway.dnsmasq.leases(network)) for network in servers))


def _orphan(parts: Parts, id: UUID, sheet: Sheet) -> None:
    if id not in _known(parts):
        message = f"gateway {parts.gateway.name} is on it, and it is not in the database"
        sheet.note(Code.LEG_ORPHAN, f"network {id}", message)


def _network(parts: Parts, row: Network, leg: Leg | None, sheet: Sheet) -> None:
    here = parts.gateway
    thing = f"network {row.name} of project {row.project.name} on gateway {here.name}"
    if leg is None:
        sheet.note(Code.LEG_MISSING, thing, "there is no leg on it")
        return
    own = row.address_of(here.number)
    if not leg.complete or leg.vlan != row.vlan or own not in leg.addresses:
        seen = f"VLAN {leg.vlan}, {', '.join(map(str, sorted(leg.addresses)))}"
        message = (
            f"the leg is not whole, or another than it should be: it has {seen}, not VLAN {row.vlan}, {own}"
        )
        sheet.note(Code.LEG_INCOMPLETE, thing, message)
        return
    _mtu(parts, sheet, thing, row)
    _dhcp(parts, sheet, thing, row, leg)
    _scripts(parts, sheet, thing, row, leg)


def _mtu(parts: Parts, sheet: Sheet, thing: str, row: Network) -> None:
    found = parts.gateway.legs.mtus(row.id)
    shown = ", ".join(f"{name} {mtu} bytes" for name, mtu in sorted(found.items()))
    needed = row.mtu or MTU
    if found and min(found.values()) < needed:
        sheet.note(Code.MTU_SMALL, thing, f"the MTU of its leg is {shown}; nodes send frames of {needed}")
    elif len(set(found.values())) > 1:
        sheet.note(Code.MTU_DIFFERS, thing, f"the MTU of its leg is not the same at both ends: {shown}")


def _dhcp(parts: Parts, sheet: Sheet, thing: str, row: Network, leg: Leg) -> None:
    dnsmasq = parts.gateway.dnsmasq
    for port in (_DHCP, _TFTP):
        note_takers(parts, sheet, leg.namespace, leg.address.ip, port, what="dnsmasq", udp=True)
    if row.id not in dnsmasq.running():
        sheet.note(Code.DHCP_NOT_RUNNING, thing, "dnsmasq does not run")
        return
    rights = parts.gateway.rights
    if netns.exists(leg.namespace) and not tftp.answers(
        leg.namespace, leg.address.ip, deadline=_ANSWER, rights=rights
    ):
        sheet.note(Code.DHCP_HANGS, thing, f"dnsmasq runs, and did not answer within {_ANSWER:g} s")
        return
    changes = _changes(parts, row.id)
    with parts.lock(row.id):  # somebody may be telling it at this moment
        orders = boot.dhcp_orders(parts, row.id, leg)
        hosts = orders.hosts
        answers = dnsmasq.answers(leg, hosts, addressing=orders.addressing, names=orders.names)
        leases = dnsmasq.leases(row.id)
        changes |= _changes(parts, row.id)
    if changes:
        return
    if not answers:
        sheet.note(
            Code.DHCP_DIFFERS, thing, f"dnsmasq does not answer exactly the {len(hosts)} nodes it should"
        )
    reserved = {(host.mac.lower(), host.address) for host in hosts}
    for lease in leases:
        if not stands(lease, reserved, orders.addressing.dynamic):
            message = f"{lease.address} is leased to {lease.mac}, which is not to have it"
            sheet.note(Code.LEASE_ORPHAN, thing, message)


def _changes(parts: Parts, network: UUID) -> bool:
    """Say whether an operation is about to change who is answered on a network."""
    with parts.db.read() as session:
        claimed = claims(session)
        there = select(Boot.id).join(Attachment).where(Attachment.network_id == network)
        return any(id in claimed for id in session.scalars(there))


def _scripts(parts: Parts, sheet: Sheet, thing: str, row: Network, leg: Leg) -> None:
    port = parts.settings.boot.http_port
    serves = row.id in parts.gateway.node_http.serving()
    # A server outlives its namespace, and then nobody reaches it.
    if serves and netns.exists(leg.namespace) and not listeners(parts.gateway.rights, leg.namespace, port):
        serves = False
    if not serves:
        sheet.note(Code.SCRIPTS_NOT_SERVED, thing, "boot scripts are not served")
        note_takers(parts, sheet, leg.namespace, leg.address.ip, port, what="the server of boot scripts")


def _probe(parts: Parts, row: Network, leg: Leg, sheet: Sheet) -> None:
    if row.dhcp in FOREIGN:
        return  # others are meant to answer
    own = {row.address_of(number).ip for number in range(1, parts.settings.networks.gateways + 1)}
    for offer in offers(parts.gateway.rights, leg.namespace, leg.interface):
        if row.dhcp is DhcpMode.FULL and offer.server in own:
            continue
        message = f"{offer.server} (MAC address {offer.mac}) offers addresses, as {offer.address}"
        sheet.note(Code.DHCP_FOREIGN, f"network {row.name} of project {row.project.name}", message)
