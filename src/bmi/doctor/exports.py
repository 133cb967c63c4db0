"""Looks at the exports of the gateway that this process is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Address
from uuid import UUID

from sqlalchemy import select

from bmi import netns
from bmi.api.doctor import Family
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.doctor.claims import Claims, claims
from bmi.doctor.codes import Code
from bmi.doctor.environment import listeners, takes
from bmi.doctor.sheet import Check, Sheet
from bmi.drivers.target import Export, Session
from bmi.errors import NotFound, TargetError
from bmi.gateways import service as gateways
from bmi.parts import Parts

_PARTS_OF_AN_EXPORT: dict[str, Callable[[Export], object]] = {
    "initiator": lambda export: export.initiator,
    "user": lambda export: export.username,
    "volume": lambda export: {
        (lun.number, lun.backing.type, lun.backing.path, lun.readonly) for lun in export.luns
    },
}
"""What can be read back of an export: secrets cannot."""


@dataclass(frozen=True)
class _Wanted:
    """What should be here at a moment."""

    boots: Mapping[UUID, Boot]
    claimed: Claims


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at: each server that runs or should."""
    before = _wanted(parts)
    running = set(parts.gateway.target.portals())
    return [
        Check(Family.TARGET, "export servers", lambda sheet: sheet.count("target_servers", len(running))),
        *(
            Check(Family.TARGET, f"export server {id}", partial(_server, parts, before, id, id in running))
            for id in sorted(running | set(before.boots))
        ),
    ]


def foreign_sessions(parts: Parts) -> list[tuple[UUID, Session]]:
    """Return the sessions of others than a server's own node, with their servers."""
    target = parts.gateway.target
    with parts.db.read() as session:
        boots = {row.id: row for row in session.scalars(select(Boot))}
    return [
        (id, found)
        for id in target.portals()
        for found in target.sessions(id)
        if id in boots and found.initiator != boot.initiator(parts, boots[id])
    ]


def _wanted(parts: Parts, *, only: UUID | None = None) -> _Wanted:
    with parts.db.read() as session:
        acting = gateways.acting(session, parts.gateway)
        query = select(Boot).where(Boot.exported, Boot.gateway_id.in_(acting))
        rows = session.scalars(query if only is None else query.where(Boot.id == only)).all()
        return _Wanted({row.id: row for row in rows}, claims(session))


def _server(parts: Parts, before: _Wanted, id: UUID, runs: bool, sheet: Sheet) -> None:
    target, hangs = parts.gateway.target, ""
    exports: dict[str, Export] = {}
    sessions: list[Session] = []
    try:
        exports = {export.iqn: export for export in target.exports(id)}
        sessions = list(target.sessions(id))
    except TargetError as error:
        hangs = error.message
    sheet.count("exports", len(exports))
    sheet.count("sessions", len(sessions))
    after = _wanted(parts, only=id)
    if id in before.claimed or id in after.claimed:
        return  # somebody makes it or takes it away
    row = after.boots.get(id)
    if row is None:
        if runs and id not in before.boots:
            message = f"no node needs it on gateway {parts.gateway.name}"
            sheet.note(Code.TARGET_SERVER_ORPHAN, f"export server {id}", message)
        return
    if id not in before.boots:
        return
    if hangs:
        message = (
            f"the server of node {row.node.name} on gateway {parts.gateway.name} does not answer: {hangs}"
        )
        sheet.note(Code.TARGET_SERVER_HANGS, f"export server {id}", message)
        return
    _compare(parts, sheet, row, exports)
    if not runs:
        _find_taker(parts, sheet, row)
    for found in sessions:
        if found.initiator != boot.initiator(parts, row):
            where = f" from {found.address}" if found.address else ""
            message = f"{found.initiator}{where} is logged in, who is not node {row.node.name}"
            sheet.note(Code.SESSION_FOREIGN, f"export {found.iqn}", message)


def _compare(parts: Parts, sheet: Sheet, row: Boot, exports: Mapping[str, Export]) -> None:
    iqn = boot.iqn(parts, row)
    for other in exports.keys() - {iqn}:
        message = f"is served beside the disk of node {row.node.name} on gateway {parts.gateway.name}"
        sheet.note(Code.EXPORT_FOREIGN, f"export {other}", message)
    if iqn not in exports:
        message = f"the disk of node {row.node.name} is not exported by gateway {parts.gateway.name}"
        sheet.note(Code.EXPORT_MISSING, f"export {iqn}", message)
        return
    try:
        wanted = boot.export_of(parts, row)
    except NotFound:
        return  # a volume is missing, which is a finding of its own
    found = exports[iqn]
    differing = [name for name, of in _PARTS_OF_AN_EXPORT.items() if of(found) != of(wanted)]
    if differing:
        message = f"the export of node {row.node.name} has another {' and '.join(differing)} than it should"
        sheet.note(Code.EXPORT_DIFFERS, f"export {iqn}", message)


def _find_taker(parts: Parts, sheet: Sheet, row: Boot) -> None:
    """Look whether another program has the port of an export whose server does not run."""
    address, port = boot.gateway_address(row), boot.iscsi_port(parts, row)
    legs = {leg.network: leg for leg in parts.gateway.legs.legs()}
    leg = legs.get(row.attachment.network_id)
    if leg is not None:
        note_takers(parts, sheet, leg.namespace, address, port, what=f"iSCSI for node {row.node.name}")


def note_takers(
    parts: Parts,
    sheet: Sheet,
    namespace: str,
    address: IPv4Address,
    port: int,
    *,
    what: str,
    udp: bool = False,
) -> None:
    """Write down who listens where only a part of BMI should."""
    if not netns.exists(namespace):
        return
    for found in listeners(parts.gateway.rights, namespace, port, udp=udp):
        # Of UDP's ports several programs can have one; then each gets a part of the requests.
        if takes(found, address) and found.program != what:
            message = (
                f"{found} listens on {found.address}:{port} in namespace {namespace}, which is for {what}"
            )
            thing = f"port {port} on gateway {parts.gateway.name}"
            sheet.note(Code.PORT_TAKEN, thing, message)
