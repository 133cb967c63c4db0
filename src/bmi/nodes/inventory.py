"""Takes nodes into the inventory, and changes them: one or many, all checked before anything is written.

What is asked of switches and management controllers is asked before the transaction, for which all other writers
wait. The transaction then decides and writes as a whole: a service that dies in it has changed nothing.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any, TypeVar

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.api.hardware import Neighbour
from bmi.api.inventory import BmcEntry, Fault, NodeBatch, NodeChange, NodeEntry, NodesTaken, Verdict
from bmi.api.nodes import Nic as NicEntry
from bmi.api.nodes import NodeCreate, NodeState
from bmi.audit import trail
from bmi.discovery.cabling import contradiction, heard_by_cards
from bmi.discovery.models import Discovered
from bmi.drivers.power import SAID, Bmc
from bmi.drivers.switch import unknown_port
from bmi.errors import AlreadyExists, BadRequest, BmcUnreachable, BmiError, InUse, SwitchError, WrongState
from bmi.networks.models import Attachment
from bmi.networks.service import switch_of
from bmi.nodes.models import Nic, Node, NodeHardware
from bmi.nodes.service import by_hand, power_of
from bmi.parts import Parts
from bmi.provisioning.models import Operation

log = logging.getLogger(__name__)

T = TypeVar("T")

_WIDTH = 64  # switches or controllers that are asked at a time
_DEADLINE = 90.0  # seconds for all of them
_IDLE = (NodeState.AVAILABLE, NodeState.MAINTENANCE)


@dataclass(frozen=True)
class Outside:
    """What was learnt of the world before the inventory is looked at."""

    ports: Mapping[str, frozenset[str] | BmiError]
    """By switch: its ports, or why they are not known."""
    silent: Mapping[int, BmiError] = field(default_factory=dict)
    """By place in the request: why a management controller is no use."""

    @property
    def known(self) -> dict[str, frozenset[str]]:
        """The ports of the switches that told them."""
        return {name: ports for name, ports in self.ports.items() if not isinstance(ports, BmiError)}


@dataclass
class Plan:
    """What is to become of a node."""

    entry: NodeEntry
    node: Node | None
    """The node as it is; None if it is new."""
    changes: list[str] = field(default_factory=list)
    faults: list[tuple[BmiError, int | None]] = field(default_factory=list)
    """Why not; and which other entry of the request that has to do with."""

    @property
    def moves(self) -> bool:
        """Whether its cards are not those that the inventory has."""
        return self.node is None or "nics" in self.changes

    def verdict(self) -> Verdict:
        """Return it as it goes over the wire."""
        if self.faults:
            outcome = "refused"
        elif self.node is None:
            outcome = "new"
        else:
            outcome = "changed" if self.changes else "unchanged"
        return Verdict.model_validate(
            {
                "name": self.entry.name,
                "outcome": outcome,
                "changes": self.changes,
                "faults": [
                    Fault(code=error.code, message=error.message, next_step=error.next_step, other=other)
                    for error, other in self.faults
                ],
            }
        )


def look_at_switches(parts: Parts, names: Iterable[str]) -> Outside:
    """Ask switches for their ports; one that is not known, or fails, is no error here."""

    def ports(name: str) -> frozenset[str]:
        return frozenset(state.port for state in switch_of(parts, name).ports())

    return Outside(ports=_side_by_side(set(names), ports, SwitchError, "switch"))


def take_in(parts: Parts, request: NodeBatch) -> NodesTaken:
    """Make the inventory have nodes; what is there already and equal stays as it is.

    Either all of them are taken, or none, unless the request says to keep going. What becomes of each is in the
    answer.
    """
    outside = look_at_switches(parts, (nic.switch for entry in request.nodes for nic in entry.nics))
    if request.check_bmc:
        outside = Outside(outside.ports, _silent_bmcs(parts, request.nodes))
    if request.dry_run:
        with parts.db.read() as session:
            plans = _plan(session, parts, request.nodes, outside, update=request.update)
        return NodesTaken(applied=False, verdicts=[plan.verdict() for plan in plans])
    with parts.db.write() as session:
        plans = _plan(session, parts, request.nodes, outside, update=request.update)
        applied = request.keep_going or not any(plan.faults for plan in plans)
        if applied:
            _write(session, parts, [plan for plan in plans if not plan.faults])
    return NodesTaken(applied=applied, verdicts=[plan.verdict() for plan in plans])


def register(session: Session, parts: Parts, request: NodeCreate, outside: Outside) -> Node:
    """Take one node into the inventory.

    Args:
        session: The transaction.
        parts: The parts.
        request: The node.
        outside: What `look_at_switches` says of its cards.

    Raises:
        SettingsInvalid: Its power driver or switch is not in the settings.
        SwitchPortUnknown: Its switch has no such port.
        AlreadyExists: Its name, a MAC or a switch port belongs to a node already.
    """
    entry = NodeEntry.model_validate(request.model_dump())
    trail.makes(f"node {entry.name}")
    (plan,) = _plan(session, parts, [entry], outside, update=False)
    if plan.node is not None:
        raise AlreadyExists(f"node {entry.name} exists already", next_step="choose another name")
    return _write_one(session, parts, plan)


def change(session: Session, parts: Parts, node: Node, request: NodeChange, outside: Outside) -> Node:
    """Change a node; what the request leaves out stays.

    Raises:
        WrongState: Its cards are to change, and it is in use.
        InUse: The same, and an operation runs on it.
        BadRequest: A value is taken away that a node has to have.
        AlreadyExists: Its new name, a MAC or a switch port belongs to another node.
        SettingsInvalid: Its power driver or switch is not in the settings.
        SwitchPortUnknown: Its switch has no such port.
    """
    entry = _merged(node, request)
    if entry.name != node.name:
        trail.makes(f"node {entry.name}, formerly {node.name}")
    (plan,) = _plan(session, parts, [entry], outside, update=True, nodes=[node])
    return _write_one(session, parts, plan)


def _write_one(session: Session, parts: Parts, plan: Plan) -> Node:
    for error, _ in plan.faults:
        raise error
    (node,) = _write(session, parts, [plan])
    return node


def _merged(node: Node, request: NodeChange) -> NodeEntry:
    for name, value in (*request, *request.bmc):
        if value is None and name in request.model_fields_set | request.bmc.model_fields_set:
            raise BadRequest(f"a node cannot be without {name}", next_step="leave it out, or give a value")
    bmc = BmcEntry(
        driver=node.bmc_driver,
        address=node.bmc_address,
        username=node.bmc_username,
        options=node.registered_options,
    ).model_copy(update={name: getattr(request.bmc, name) for name in request.bmc.model_fields_set})
    nics = [NicEntry(mac=nic.mac, switch=nic.switch, port=nic.port) for nic in node.nics]
    return NodeEntry.model_construct(
        name=request.name or node.name, bmc=bmc, nics=request.nics if request.nics is not None else nics
    )


# --- what is asked outside ---------------------------------------------------------------------------------


def _silent_bmcs(parts: Parts, entries: Sequence[NodeEntry]) -> dict[int, BmiError]:
    """Ask the management controllers of entries whether they answer; return those that do not."""
    with parts.db.read() as session:
        known = {node.name: node for node in session.scalars(select(Node))}

    def ask(place: int) -> None:
        entry = entries[place]
        node, password = known.get(entry.name), entry.bmc.password
        if password is not None:
            secret = password.get_secret_value()
        else:
            secret = parts.vault.open(node.bmc_password) if node else ""
        bmc = Bmc(entry.bmc.address, entry.bmc.username, secret, entry.bmc.options)
        power_of(parts, entry.bmc.driver).state(bmc)

    found = _side_by_side(range(len(entries)), ask, BmcUnreachable, "management controller of entry")
    return {place: error for place, error in found.items() if error is not None}


K = TypeVar("K")


def _side_by_side(
    keys: Iterable[K], ask: Callable[[K], T], late: type[BmiError], what: str
) -> dict[K, T | BmiError]:
    """Ask many things at once, and return what each answers, or why it does not."""
    pool = ThreadPoolExecutor(_WIDTH, thread_name_prefix="inventory")
    asked: dict[K, Future[T]] = {key: pool.submit(ask, key) for key in keys}
    wait(asked.values(), timeout=_DEADLINE)
    pool.shutdown(wait=False, cancel_futures=True)  # drivers have deadlines of their own
    found: dict[K, T | BmiError] = {}
    for key, answer in asked.items():
        if not answer.done() or answer.cancelled():
            found[key] = late(
                f"{what} {key} did not answer within {_DEADLINE:g} s",
                next_step="check it, or take fewer nodes at a time",
            )
            continue
        error = answer.exception()
        if error is not None and not isinstance(error, BmiError):
            raise error
        found[key] = answer.result() if error is None else error
    return found


# --- what is decided ---------------------------------------------------------------------------------------


def _plan(
    session: Session,
    parts: Parts,
    entries: Sequence[NodeEntry],
    outside: Outside,
    *,
    update: bool,
    nodes: Sequence[Node] | None = None,
) -> list[Plan]:
    """Say what is to become of entries.

    Args:
        session: The transaction.
        parts: The parts.
        entries: How the nodes should be.
        outside: What switches and controllers said.
        update: Whether nodes that differ are to be changed.
        nodes: The nodes that the entries stand for; those of the same names if None.
    """
    inventory = session.scalars(select(Node)).all()
    by_name = {node.name: node for node in inventory}
    stand_for = nodes if nodes is not None else [by_name.get(entry.name) for entry in entries]
    plans = [
        Plan(entry, node, [] if node is None else _differences(parts, node, entry))
        for entry, node in zip(entries, stand_for, strict=True)
    ]
    heard = heard_by_cards(session)
    for place, plan in enumerate(plans):
        _judge_alone(session, parts, plan, outside, heard, update=update)
        if error := outside.silent.get(place):
            plan.faults.append((error, None))
    _judge_entries(parts, plans)
    _judge_against(parts, inventory, plans)
    return plans


def _differences(parts: Parts, node: Node, entry: NodeEntry) -> list[str]:
    bmc = entry.bmc
    password = bmc.password
    compared = {
        "name": node.name == entry.name,
        "bmc driver": node.bmc_driver == bmc.driver,
        "bmc address": node.bmc_address == bmc.address,
        "bmc username": node.bmc_username == bmc.username,
        "bmc password": password is None
        or password.get_secret_value() == parts.vault.open(node.bmc_password),
        "bmc options": node.registered_options == bmc.options,
        "nics": [(nic.mac, nic.switch, nic.port) for nic in node.nics]
        == [(nic.mac, nic.switch, nic.port) for nic in entry.nics],
    }
    return [what for what, equal in compared.items() if not equal]


def _judge_alone(
    session: Session,
    parts: Parts,
    plan: Plan,
    outside: Outside,
    heard: Mapping[str, Sequence[Neighbour]],
    *,
    update: bool,
) -> None:
    """Look at an entry as if there were no other."""
    if plan.node is not None and not plan.changes:
        return
    if plan.node is not None and not update:
        plan.faults.append(
            (
                AlreadyExists(
                    f"node {plan.node.name} is there already, and differs: {', '.join(plan.changes)}",
                    next_step="correct the entry, or have the node changed: --update",
                ),
                None,
            )
        )
        return
    plan.faults += [(error, None) for error in _errors(session, parts, plan, outside, heard)]


def _errors(
    session: Session, parts: Parts, plan: Plan, outside: Outside, heard: Mapping[str, Sequence[Neighbour]]
) -> list[BmiError]:
    errors: list[BmiError] = []
    try:
        power_of(parts, plan.entry.bmc.driver)
    except BmiError as error:
        errors.append(error)
    if plan.moves:
        for nic in plan.entry.nics:
            wrong = _port_error(parts, nic, outside) or contradiction(
                parts.settings, outside.known, nic, heard.get(nic.mac, ())
            )
            if wrong is not None:
                errors.append(wrong)
        if plan.node is not None and (busy := _busy(session, plan.node)):
            errors.append(busy)
    return errors


def _port_error(parts: Parts, nic: NicEntry, outside: Outside) -> BmiError | None:
    try:
        switch_of(parts, nic.switch)
    except BmiError as error:
        return error
    ports = outside.ports.get(nic.switch, frozenset())
    if isinstance(ports, BmiError):
        return ports
    return None if nic.port in ports else unknown_port(nic.port, f"switch {nic.switch}", sorted(ports))


def _busy(session: Session, node: Node) -> BmiError | None:
    """Say why a node's cards cannot be changed now."""
    if node.state not in _IDLE:
        return WrongState(
            f"node {node.name} is {node.state}: its network cards stay",
            next_step=f"give it back first: bmi node deprovision {node.name}",
        )
    running = select(Operation.id).where(
        or_(Operation.node_id == node.id, Operation.second_node_id == node.id), Operation.ended_at.is_(None)
    )
    attached = (
        select(Attachment.id).join(Nic, Nic.id == Attachment.nic_id).where(Nic.node_id == node.id).limit(1)
    )
    if session.scalar(running.limit(1)) or session.scalar(attached):
        return InUse(
            f"node {node.name} is in use: its network cards stay",
            next_step="wait until its operation has ended, and take it off its networks",
        )
    return None


def _judge_entries(parts: Parts, plans: Sequence[Plan]) -> None:
    """Find what two entries of the request both want, or one wants twice."""
    owners: dict[tuple[str, ...], int] = {}
    for place, plan in enumerate(plans):
        keys = Counter(_claims(parts, plan.entry))
        plan.faults += [(_twice(key, plan.entry.name), None) for key, times in keys.items() if times > 1]
        taken = {key: owners[key] for key in keys if key in owners}
        # Entries of one name have much in common; that says enough.
        told = [key for key in taken if key[0] == "name"] or list(taken)
        for key in told:
            other = taken[key]
            plan.faults.append((_taken(key, plans[other].entry.name, in_request=True), other))
        for key in keys:
            owners.setdefault(key, place)


def _judge_against(parts: Parts, inventory: Sequence[Node], plans: Sequence[Plan]) -> None:
    """Find what entries want and nodes have that stay as they are.

    Cables may be swapped: of a node that is changed counts only what it is to have. One that is refused for that
    stays as it is, with all that it has; so this is repeated until nothing more is refused.
    """
    while True:
        changed = {plan.node.id for plan in plans if plan.node and plan.changes and not plan.faults}
        owners = {
            key: node for node in inventory if node.id not in changed for key in _claims_of(parts, node)
        }
        found = False
        for plan in plans:
            if plan.faults or (plan.node is not None and not plan.changes):
                continue
            for key in _claims(parts, plan.entry):
                other = owners.get(key)
                if other is not None and (plan.node is None or other.id != plan.node.id):
                    plan.faults.append((_taken(key, other.name, in_request=False), None))
                    found = True
        if not found:
            return


def _claims(parts: Parts, entry: NodeEntry) -> list[tuple[str, ...]]:
    """Return what only one node can have."""
    nics = [(nic.mac, nic.switch, nic.port) for nic in entry.nics]
    return _keys(parts, entry.name, entry.bmc.driver, entry.bmc.address, entry.bmc.options, nics)


def _claims_of(parts: Parts, node: Node) -> list[tuple[str, ...]]:
    nics = [(nic.mac, nic.switch, nic.port) for nic in node.nics]
    return _keys(parts, node.name, node.bmc_driver, node.bmc_address, node.registered_options, nics)


def _keys(
    parts: Parts,
    name: str,
    driver: str,
    address: str,
    options: Mapping[str, Any],
    nics: Sequence[tuple[str, str, str]],
) -> list[tuple[str, ...]]:
    # One controller may stand for several machines; its options then say which one is meant.
    rest = [f"{key}={value}" for key, value in sorted(options.items())]
    controller = ("bmc", driver, address.rstrip("/").lower(), *rest)
    return [
        ("name", name),
        *(() if by_hand(parts, driver) else (controller,)),
        *(("mac", mac) for mac, _, _ in nics),
        *(("port", switch, port) for _, switch, port in nics),
    ]


def _words(key: tuple[str, ...]) -> str:
    match key:
        case ("mac", mac):
            return f"MAC {mac}"
        case ("port", switch, port):
            return f"port {port} of switch {switch}"
        case ("bmc", driver, address, *_):
            return f"the management controller {address} ({driver})"
        case _:
            return f"the name {key[1]}"


def _twice(key: tuple[str, ...], name: str) -> BmiError:
    return AlreadyExists(f"node {name} names {_words(key)} twice", next_step="correct its network cards")


def _taken(key: tuple[str, ...], owner: str, *, in_request: bool) -> BmiError:
    if key[0] == "name":
        words = "is named twice" if in_request else "exists already"
        return AlreadyExists(
            f"node {owner} {words}", next_step="choose another name, or remove one of the two"
        )
    return AlreadyExists(
        f"{_words(key)} belongs to node {owner}",
        next_step=f"correct it, or change node {owner} first",
    )


# --- what is written ---------------------------------------------------------------------------------------


def _write(session: Session, parts: Parts, plans: Sequence[Plan]) -> list[Node]:
    """Write what was planned, without faults. Cards go before others come: two nodes may swap them."""
    for plan in plans:
        if plan.node is not None and plan.moves:
            plan.node.nics.clear()
    session.flush()
    written = []
    for plan in plans:
        node, bmc = plan.node or Node(), plan.entry.bmc
        written.append(node)
        if plan.node is not None and not plan.changes:
            continue
        node.name = plan.entry.name
        node.bmc_driver, node.bmc_address = bmc.driver, bmc.address
        node.bmc_username = bmc.username
        said = {SAID: node.bmc_options[SAID]} if plan.node and SAID in node.bmc_options else {}
        node.bmc_options = {**bmc.options, **said}
        if bmc.password is not None or plan.node is None:
            secret = bmc.password.get_secret_value() if bmc.password else ""
            node.bmc_password = parts.vault.seal(secret)
        if plan.moves:
            node.nics = [
                Nic(position=position, mac=nic.mac, switch=nic.switch, port=nic.port)
                for position, nic in enumerate(plan.entry.nics)
            ]
        session.add(node)
    session.flush()
    _adopt_hardware(session, written)
    return written


def _adopt_hardware(session: Session, nodes: Sequence[Node]) -> None:
    """Let what machines told of themselves be their nodes' hardware, now that these have their cards."""
    owner_of = {nic.mac: node for node in nodes for nic in node.nics}
    for row in session.scalars(select(Discovered)).all():
        node = owner_of.get(row.mac)
        if node is None:
            continue
        known = session.scalar(select(NodeHardware).where(NodeHardware.node_id == node.id))
        if known is None:
            session.add(NodeHardware(node_id=node.id, facts=row.facts, seen_at=row.seen_at))
        else:
            known.facts, known.seen_at = row.facts, row.seen_at
        session.delete(row)
