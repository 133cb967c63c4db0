"""Nodes of the site's inventory become BMI's: new ones are registered, changed ones brought up to date.

Nothing is removed: of what is gone a person is told. Each node is compared, and written, in a transaction of its
own, so that an import which is broken off is simply begun again.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from pydantic import TypeAdapter, ValidationError
from sqlalchemy import exists, or_, select
from sqlalchemy.orm import Session

from bmi.api.common import Name, Page
from bmi.api.nodes import BmcCreate, Difference, ImportedNode, Nic, NodeCreate, NodeImport, NodeState
from bmi.drivers.inventory import ListedNode
from bmi.errors import AlreadyExists, WrongState
from bmi.networks.models import Attachment
from bmi.networks.service import switch_of
from bmi.nodes import models
from bmi.nodes.inventory import Outside, register
from bmi.nodes.leases import Leases
from bmi.nodes.models import Node
from bmi.nodes.service import power_of
from bmi.parts import Parts
from bmi.settings import InventorySettings

_NAME: TypeAdapter[str] = TypeAdapter(Name)
_MOST_NICS = 16
_BETWEEN = re.compile(r"[:.\-\s]")
_HEX = re.compile(r"[0-9a-f]{12}")


class _Unfit(Exception):
    """A node cannot be one of BMI's; the text says why."""


@dataclass(frozen=True)
class _Wanted:
    """A node as it should be in BMI."""

    name: str
    nics: tuple[Nic, ...]
    remarks: tuple[str, ...]


def take_over(parts: Parts, request: NodeImport, project: str) -> Page[ImportedNode]:
    """Bring one page of the nodes of a project into BMI's inventory, and return how they compare.

    Args:
        parts: The parts.
        request: Which page, and whether anything is to be written.
        project: BMI's name of the project.

    Raises:
        WrongState: The site has no inventory.
        SettingsInvalid: The switch or the power driver of imported nodes is not in the settings.
        InventoryUnavailable: The inventory does not answer.
        InventoryRefused: BMI may not look there.
    """
    leases = _leases(parts)
    power_of(parts, leases.settings.power)
    switch_of(parts, leases.settings.switch)
    listed = leases.listed(project)
    there = leases.nodes(listed)
    with parts.db.read() as session:
        known = select(Node.inventory_name).where(Node.inventory_project == listed)
        here = {name for name in session.scalars(known) if name is not None}
    names = sorted(name for name in {*there, *here} if request.cursor is None or name > request.cursor)
    page = names[: request.limit]
    items = [_one(parts, leases, request, project, listed, name, gone=name not in there) for name in page]
    return Page(items=items, next=page[-1] if len(names) > len(page) else None)


def _one(
    parts: Parts, leases: Leases, request: NodeImport, project: str, listed: str, name: str, *, gone: bool
) -> ImportedNode:
    found = None if gone else leases.inventory.node(name)  # asked outside of any transaction

    def said(difference: Difference, detail: str) -> ImportedNode:
        return ImportedNode(node=name, project=project, difference=difference, detail=detail)

    if found is None or found.project != listed:
        return said(*_gone(parts, name, listed))
    try:
        wanted = _wanted(found, leases.settings)
        with parts.db.read() if request.dry_run else parts.db.write() as session:
            difference, detail = _compared(
                session, parts, leases.settings, found, wanted, write=not request.dry_run
            )
    except (_Unfit, AlreadyExists) as error:
        return said(Difference.REFUSED, str(error))
    return said(difference, "; ".join([detail, *wanted.remarks]))


def _gone(parts: Parts, name: str, listed: str) -> tuple[Difference, str]:
    with parts.db.read() as session:
        node = session.scalar(select(Node).where(Node.inventory_name == name))
    if node is None:
        return Difference.GONE, "it was given away in this moment"
    way = "bmi node delete" if node.project_id is None else "bmi node deprovision"
    return Difference.GONE, f"project {listed} does not have it any more; {way} {node.name}"


def _compared(
    session: Session,
    parts: Parts,
    settings: InventorySettings,
    found: ListedNode,
    wanted: _Wanted,
    *,
    write: bool,
) -> tuple[Difference, str]:
    """Say how a node compares with BMI's; write what is new or changed, if that is to be.

    Raises:
        AlreadyExists: Another node has its name, a MAC or a port.
        _Unfit: It differs, and is in use.
    """
    node = session.scalar(
        select(Node)
        .where(or_(Node.inventory_name == found.name, Node.name == wanted.name))
        .order_by(Node.inventory_name != found.name)
    )
    if node is None:
        _refuse_taken(session, wanted, None)
        if write:
            bmc = BmcCreate(driver=settings.power, address=found.name)
            request = NodeCreate(name=wanted.name, bmc=bmc, nics=list(wanted.nics))
            ports = frozenset(nic.port for nic in wanted.nics)  # the inventory has just named them
            node = register(session, parts, request, Outside({settings.switch: ports}))
            node.inventory_name, node.inventory_project = found.name, found.project
        return Difference.NEW, f"{len(wanted.nics)} network cards, boots from {wanted.nics[0].port}"
    if node.inventory_name not in (None, found.name):
        raise _Unfit(f"node {node.name} of BMI is node {node.inventory_name} there; rename one of the two")
    if node.project_id is not None and node.inventory_project not in (None, found.project):
        raise _Unfit(
            f"BMI still uses it for project {node.inventory_project}, which does not have it any "
            "more; give it back "
            f"(bmi node deprovision {node.name}) and import it again"
        )
    changes = []
    if node.inventory_name is None:
        if _nics(node) != wanted.nics:
            raise _Unfit(
                f"BMI has another node {node.name}, registered by hand with other network cards; delete it first: "
                f"bmi node delete {node.name}"
            )
        changes.append("it was registered by hand, and follows the inventory from now on")
    if _nics(node) != wanted.nics:
        _require_free(session, node)
        _refuse_taken(session, wanted, node.id)
        changes.append(f"network cards: {_words(_nics(node))} become {_words(wanted.nics)}")
    if node.inventory_name and node.inventory_project != found.project:
        changes.append(f"project {node.inventory_project} becomes {found.project}")
    if write and changes:
        node.inventory_name, node.inventory_project = found.name, found.project
        _set_nics(session, node, wanted.nics)
    return (Difference.CHANGED, "; ".join(changes)) if changes else (Difference.UNCHANGED, "as it is")


def _set_nics(session: Session, node: Node, nics: Sequence[Nic]) -> None:
    if _nics(node) == tuple(nics):
        return
    node.nics.clear()
    session.flush()  # what goes makes room for what comes: MACs and ports are unique
    node.nics = [
        models.Nic(position=position, mac=nic.mac, switch=nic.switch, port=nic.port)
        for position, nic in enumerate(nics)
    ]
    session.flush()


def _require_free(session: Session, node: Node) -> None:
    attached = exists().where(Attachment.nic_id.in_([nic.id for nic in node.nics]))
    if node.state not in (NodeState.AVAILABLE, NodeState.MAINTENANCE) or session.scalar(select(attached)):
        raise _Unfit(
            f"its network cards are others now, and it is {node.state}; give it back (bmi node "
            f"deprovision {node.name}) "
            "and import it again"
        )


def _refuse_taken(session: Session, wanted: _Wanted, own: UUID | None) -> None:
    for nic in wanted.nics:
        same = (models.Nic.mac == nic.mac) | (
            (models.Nic.switch == nic.switch) & (models.Nic.port == nic.port)
        )
        other = session.scalar(select(models.Nic).where(same, models.Nic.node_id != own if own else same))
        if other:
            raise _Unfit(
                f"MAC {nic.mac} or port {nic.port} of switch {nic.switch} belongs to node "
                f"{other.node.name} of BMI; "
                "correct one of the two"
            )


def _wanted(found: ListedNode, settings: InventorySettings) -> _Wanted:
    name = found.name.lower()
    try:
        _NAME.validate_python(name)
    except ValidationError:
        raise _Unfit(
            "its name cannot be one of BMI's, which have at most 63 letters, digits, dots and "
            "dashes; rename it there"
        ) from None
    remarks, nics = [], []
    for each in found.nics:
        mac = canonical(each.mac)
        if mac is None:
            remarks.append(f"card {each.label} is left out: {_shown(each.mac)} is no MAC address")
        else:
            nics.append((each.label, mac))
    if settings.boot_nic is not None:
        if settings.boot_nic not in {label for label, _ in nics}:
            raise _Unfit(f"it has no network card {settings.boot_nic}, which is to boot (inventory.boot_nic)")
        nics.sort(key=lambda nic: nic[0] != settings.boot_nic)
    if not nics:
        raise _Unfit("; ".join(["it has no network card with a MAC address", *remarks]))
    if len(nics) > _MOST_NICS:
        raise _Unfit(f"it has {len(nics)} network cards, and BMI takes {_MOST_NICS}")
    if len({mac for _, mac in nics}) < len(nics):
        raise _Unfit("two of its network cards have the same MAC address; correct one there")
    made = tuple(Nic(mac=mac, switch=settings.switch, port=f"{found.name}/{label}") for label, mac in nics)
    return _Wanted(name, made, tuple(remarks))


def canonical(text: str) -> str | None:
    """Return a MAC address, however it is written, as BMI writes it; None if it is none."""
    digits = _BETWEEN.sub("", text).lower()
    if not _HEX.fullmatch(digits):
        return None
    return ":".join(digits[at : at + 2] for at in range(0, 12, 2))


def _leases(parts: Parts) -> Leases:
    if parts.leases is None:
        raise WrongState(
            "this site has no inventory that nodes could be imported from",
            next_step="name one in the settings: [inventory], see docs/hil.md",
        )
    return parts.leases


def _nics(node: Node) -> tuple[Nic, ...]:
    return tuple(Nic(mac=nic.mac, switch=nic.switch, port=nic.port) for nic in node.nics)


def _words(nics: Sequence[Nic]) -> str:
    return ", ".join(f"{nic.mac} at {nic.port}" for nic in nics)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else f"{text[:40]}...")
