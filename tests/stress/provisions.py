"""Two hundred nodes are provisioned at once, and given back at once, while one call of ten fails."""

import random
import tempfile
import time
from pathlib import Path
from typing import Any

from sqlalchemy import func, select

from bmi.api.nodes import NodeState
from bmi.nodes.models import Node
from bmi.provisioning.models import Operation
from tests.faults.faulty import Fault, Faults, Point
from tests.faults.house import IMAGE, NETWORK, PROJECT, House
from tests.faults.laboratory import give_back, settled
from tests.faults.reality import broken_promises

SHARE = 0.1  # of the calls that fail
_FOR_GOOD = 0.05  # of those: failures that do not pass
_PATIENCE = 1800.0  # seconds until all operations must have ended


def stress_provisions(count: int, database: str | None) -> dict[str, Any]:
    """Do it, and tell what came of it.

    Args:
        count: How many nodes there are.
        database: URL of an empty database; an SQLite file of its own if None.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bmi-stress-") as folder:
        house = House(Path(folder), Faults(_sometimes), database=database).open()
        try:
            told = _all_at_once(house, count)
        finally:
            house.close()
    return {"stress": "provisions", **told, "seconds": round(time.monotonic() - begun, 1)}


def _sometimes(point: Point) -> Fault | None:
    if random.random() >= SHARE:
        return None
    return Fault.FAILS_FOR_GOOD if random.random() < _FOR_GOOD else Fault.FAILS


def _all_at_once(house: House, count: int) -> dict[str, Any]:
    assert house.api.post("/v1/projects", json={"name": PROJECT}).status_code == 201
    house.done("POST", "/networks", {"name": NETWORK, "project": PROJECT})
    house.image(IMAGE)
    for number in range(1, count + 1):
        house.node(f"n{number}", number)
    body = {"image": IMAGE, "network": NETWORK, "project": PROJECT, "until": "power"}
    house.faults.armed = True
    for number in range(1, count + 1):
        house.ask("POST", f"/nodes/n{number}/provision", body)
    problems = _calm(house)
    active = _in_state(house, NodeState.ACTIVE)
    for number in range(1, count + 1):
        if house.get(f"/nodes/n{number}")["state"] in ("active", "failed"):
            house.ask("POST", f"/nodes/n{number}/deprovision", {})
    problems += _calm(house)
    failed = _in_state(house, NodeState.FAILED)
    house.faults.armed = False
    problems += give_back(house)
    left = [str(found) for found in settled(house)]
    with house.parts.db.read() as session:
        operations = session.scalar(select(func.count()).select_from(Operation))
    return {
        "operations": operations,
        "failures_injected": len(house.faults.injected),
        "calls": len(house.faults.seen),
        "provisioned": active,
        "left_for_a_look": failed,
        "leaks": len(left),
        "left": left,
        "problems": problems,
    }


def _calm(house: House) -> list[str]:
    return [] if house.quiet(_PATIENCE) else broken_promises(house.parts)


def _in_state(house: House, state: NodeState) -> int:
    with house.parts.db.read() as session:
        return session.scalar(select(func.count()).select_from(Node).where(Node.state == state)) or 0
