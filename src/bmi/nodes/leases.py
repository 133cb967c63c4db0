"""Leases: whether the site's inventory, where there is one, has given a node to the project that uses it.

What the inventory says counts for the nodes that were imported from it (`bmi.nodes.importing`). A lease that has
ended ends nothing here: the node is said to be lost, and its user gives it back. Meanwhile, and while he does,
neither its power nor its ports are touched: they are somebody else's.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select

from bmi.access.models import Project
from bmi.access.service import find
from bmi.api.nodes import Lease, NodeState
from bmi.db import Db
from bmi.drivers.inventory import Inventory
from bmi.errors import BmiError, InventoryRefused, InventoryUnavailable, NotLeased
from bmi.events import record
from bmi.nodes.models import Node
from bmi.settings import InventorySettings

FRESH = 1.0
"""Seconds that an answer of the inventory is good for: who looks at many nodes, or ports, asks once."""

GLANCE = 2.0
"""Seconds that whoever only looks waits for the inventory."""

_SILENT = (
    5.0  # seconds for which an inventory that did not answer in time is not waited for by who only looks
)
_GLANCES = 4  # projects that are asked for at a time, for those who only look
_REMEMBERED = 10.0  # seconds between a look before a transaction and the transaction


@dataclass(frozen=True)
class _Answer:
    at: float
    nodes: Collection[str] | None
    failure: BmiError | None


class Leases:
    """What the inventory says, remembered for a moment, so that many who look at once ask once.

    Args:
        inventory: The driver.
        settings: Which project of the inventory is which of BMI.
    """

    def __init__(self, inventory: Inventory, settings: InventorySettings) -> None:
        self.inventory = inventory
        self.settings = settings
        self._answers: dict[str, _Answer] = {}
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(_GLANCES, thread_name_prefix="leases")
        self._asked: dict[str, Future[Collection[str]]] = {}
        self._silent: dict[str, float] = {}

    def listed(self, project: str) -> str:
        """Return what the inventory calls a project of BMI."""
        return self.settings.projects.get(project, project)

    def nodes(self, listed: str, *, age: float = 0) -> Collection[str]:
        """Return the names of the nodes that a project of the inventory has.

        Args:
            listed: The inventory's name of the project.
            age: Seconds that the answer may be old.

        Raises:
            InventoryUnavailable: The inventory does not answer.
            InventoryRefused: BMI may not look there.
        """
        with self._guard:
            lock = self._locks[listed]
        with lock:
            known = self._answers.get(listed)
            if known is None or time.monotonic() - known.at >= age:
                known = self._answers[listed] = self._ask(listed)
        if known.failure is not None:  # anew: one error is not raised by two threads
            raise type(known.failure)(known.failure.message, next_step=known.failure.next_step)
        return known.nodes or ()

    def glance(self, listed: str) -> Collection[str]:
        """Return what `nodes` does, for those who only look: they wait a moment, and not again at once.

        Raises:
            InventoryUnavailable: The inventory does not answer, or has not yet.
            InventoryRefused: BMI may not look there.
        """
        away = InventoryUnavailable("the site's inventory does not answer", next_step="look again later")
        with self._guard:
            known, silent = self._answers.get(listed), self._silent.get(listed)
            if known is not None and known.nodes is not None and time.monotonic() - known.at < FRESH:
                return known.nodes
            if silent is not None and time.monotonic() - silent < _SILENT:
                raise away
            asked = self._asked.get(listed)
            if asked is None or asked.done():
                asked = self._asked[listed] = self._pool.submit(self.nodes, listed)
        try:
            return asked.result(GLANCE)
        except TimeoutError:
            self._silent[listed] = time.monotonic()
            raise away from None

    def remembered(self, listed: str) -> Collection[str] | None:
        """Return what was answered a moment ago; None if nothing was. It waits for nobody."""
        known = self._answers.get(listed)
        return None if known is None or time.monotonic() - known.at >= _REMEMBERED else known.nodes

    def close(self) -> None:
        """Let go of connections."""
        self._pool.shutdown(wait=False, cancel_futures=True)
        self.inventory.close()

    def _ask(self, listed: str) -> _Answer:
        try:
            return _Answer(time.monotonic(), self.inventory.nodes(listed), None)
        except (InventoryUnavailable, InventoryRefused) as error:
            return _Answer(time.monotonic(), None, error)


def lease_of(leases: Leases | None, node: Node) -> Lease | None:
    """Say whether the inventory still gives a node to the project that it is used for; None if it never did."""
    if leases is None or node.inventory_name is None or node.inventory_project is None:
        return None
    try:
        held = node.inventory_name in leases.glance(node.inventory_project)
    except (InventoryUnavailable, InventoryRefused):
        return Lease.UNKNOWN
    return Lease.HELD if held else Lease.ENDED


def given_away(leases: Leases | None, node: Node) -> bool:
    """Say whether the inventory has given a node to somebody else, or to nobody, so that it is not to be touched.

    Raises:
        InventoryUnavailable: The inventory does not answer.
        InventoryRefused: BMI may not look there.
    """
    if leases is None or node.inventory_name is None or node.inventory_project is None:
        return False
    return node.inventory_name not in leases.nodes(node.inventory_project, age=FRESH)


def require(leases: Leases | None, node: Node, project: str) -> str | None:
    """Refuse a node that the inventory has not given to a project; returns what that is called there.

    Args:
        leases: What the inventory says.
        node: The node.
        project: BMI's project.

    Raises:
        NotLeased: It has not.
        InventoryUnavailable: The inventory does not answer.
        InventoryRefused: BMI may not look there.
    """
    if leases is None or node.inventory_name is None:
        return None
    listed = leases.listed(project)
    if node.inventory_name not in leases.nodes(listed, age=FRESH):
        raise _not_leased(node, project, listed)
    return listed


def _not_leased(node: Node, project: str, listed: str) -> NotLeased:
    return NotLeased(
        f"node {node.name} does not belong to project {listed} in the site's inventory, so project "
        f"{project} cannot "
        "boot it",
        next_step=f"take a node that it has, or give it this one there (with HIL: hil project node add {listed} "
        f"{node.inventory_name})",
    )


def take(leases: Leases | None, node: Node, project: str) -> None:
    """Refuse a node, while an operation is being asked for, that is known not to be leased to a project.

    What the inventory said a moment ago counts (see `look`): a transaction must not wait for it. Where nothing is
    known the operation itself finds out, before it touches the network.

    Raises:
        NotLeased: The node belongs to another project there, or to none.
    """
    if leases is None or node.inventory_name is None:
        return
    listed = leases.listed(project)
    known = leases.remembered(listed)
    if known is None:
        return
    if node.inventory_name not in known:
        raise _not_leased(node, project, listed)
    node.inventory_project = listed


def look(db: Db, leases: Leases | None, project: str | None) -> None:
    """Ask the inventory for a project's nodes before a transaction begins that wants to know them.

    Args:
        db: The database.
        leases: What the inventory says.
        project: Name or id of BMI's project.
    """
    if leases is None or project is None:
        return
    with suppress(BmiError):  # what is wrong is said by whoever needs it
        with db.read() as session:
            name = find(session, Project, project, thing="project", limit_to=None).name
        leases.nodes(leases.listed(name), age=FRESH)


def keep(db: Db, leases: Leases | None, id: UUID, project: str | None) -> None:
    """Refuse a node that is not leased, before its port is opened and before it gets power.

    Args:
        db: The database.
        leases: What the inventory says.
        id: The node.
        project: BMI's project; None for whatever project has it, to have its disks wiped.

    Raises:
        NotLeased: The inventory has not given it to the project.
        InventoryUnavailable: The inventory does not answer.
        InventoryRefused: BMI may not look there.
    """
    if project is None:
        refuse_lost(db, leases, id)
        return
    with db.read() as session:
        node = session.get_one(Node, id)
    listed = require(leases, node, project)
    if listed is not None and listed != node.inventory_project:
        with db.write() as session:
            session.get_one(Node, id).inventory_project = listed


def is_lost(db: Db, leases: Leases | None, id: UUID) -> bool:
    """Say of a node by its id what `given_away` says."""
    if leases is None:
        return False
    with db.read() as session:
        node = session.get_one(Node, id)
    return given_away(leases, node)


def refuse_lost(db: Db, leases: Leases | None, id: UUID) -> None:
    """Refuse a node that the inventory has given to somebody else, or to nobody.

    Raises:
        NotLeased: It has.
        InventoryUnavailable: The inventory does not answer.
        InventoryRefused: BMI may not look there.
    """
    with db.read() as session:
        node = session.get_one(Node, id)
    if given_away(leases, node):
        raise NotLeased(
            f"the site's inventory does not give node {node.name} to project {node.inventory_project} any more",
            next_step=lost(node),
        )


def watch(db: Db, leases: Leases | None) -> None:
    """Write into the history of nodes in use that their lease has ended, or is there again; for convergence."""
    if leases is None:
        return
    with db.read() as session:
        imported = session.scalars(select(Node).where(Node.inventory_name.is_not(None))).all()
    for node in imported:
        lease = lease_of(leases, node) if node.project_id is not None else None
        ended = lease is Lease.ENDED
        if lease is Lease.UNKNOWN or ended is (node.lease_ended_at is not None):
            continue
        with db.write() as session:
            row = session.get(Node, node.id)
            if (
                row is None
                or row.project_id != node.project_id
                or row.inventory_project != node.inventory_project
            ):
                continue  # somebody took it, or gave it back, meanwhile
            row.lease_ended_at = db.clock(session) if ended else None
            if row.project_id is not None:
                where = f"project {row.inventory_project} in the site's inventory"
                kind, words = (
                    ("lease.ended", f"does not belong to {where} any more; {lost(row)}")
                    if ended
                    else ("lease.back", f"belongs to {where} again")
                )
                record(session, kind, words, node=row.id, project=row.project_id)


def lost(node: Node) -> str:
    """Return what is to be done about a node that the inventory has taken away."""
    if node.project_id is not None:
        return f"give it back, which leaves its power and its ports alone: bmi node deprovision {node.name}"
    way = f"bmi node delete {node.name}"
    if node.state is NodeState.CLEANING:
        way = f"bmi node reset {node.name} --assume-clean, then {way}"
    return f"remove it ({way}), or give it to project {node.inventory_project} there again"


def problem(node: Node, lease: Lease | None) -> str | None:
    """Return what is wrong with a node in use whose lease has ended; None if nothing is."""
    if lease is not Lease.ENDED or node.project_id is None:
        return None
    return (
        f"the site's inventory has taken it from project {node.inventory_project}, and may have given "
        "it to somebody "
        f"else; {lost(node)}"
    )
