"""Runs one cell of the matrix after the other: a workflow, a point of it, and what goes wrong there."""

import faulthandler
import gc
import logging
import os
import shutil
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from dbos import DBOS
from sqlalchemy import select

from bmi.api.nodes import NodeState
from bmi.api.operations import Ending
from bmi.errors import DeadlineExceeded
from bmi.images.models import Disk, Image
from bmi.networks.models import Network
from bmi.nodes.models import Node
from bmi.provisioning.models import Operation
from bmi.wait import wait_until
from tests.faults.faulty import Fault, Faults, Point, possible
from tests.faults.house import ENDS, IMAGE, NETWORK, NODES, PROJECT, House, Refused, watch_commits
from tests.faults.lives import Life, live
from tests.faults.reality import Difference, broken_promises, differences
from tests.faults.scenarios import SCENARIOS, Scenario
from tests.faults.warm import warm_up

OUTCOMES = ("done", "undone", "standing", "stuck", "leaked")
"""Done; as before; left for a look, and everything could be given back; never ended or cannot be used again;
something is left that nobody wants."""

_ROUNDS = 3  # of giving everything back: what one could not do the next must


_CELLS_EACH = 3  # of one workflow, where only some are wanted: finding out what there are costs as much

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One entry of the matrix."""

    scenario: str
    family: str
    verb: str
    number: int
    step: str
    fault: Fault

    @property
    def point(self) -> Point:
        """Where it happens."""
        return Point(self.family, self.verb, self.number)

    @property
    def retried(self) -> bool:
        """Whether an operation that failed is asked for again before everything is given back; every other one."""
        return _lot(self) % 2 == 0

    @property
    def used_again(self) -> bool:
        """Whether a node is provisioned once more after all that; every fourth one, for it takes long."""
        return _lot(self) % 4 == 1 and self.scenario.startswith(("node", "network"))

    def __str__(self) -> str:
        return f"{self.scenario} | {self.step} | {self.point} | {self.fault}"


def _lot(cell: Cell) -> int:
    return zlib.crc32(str(cell).encode())


@dataclass(frozen=True)
class Result:
    """What became of a cell."""

    cell: str
    workflow: str
    step: str
    fault: str
    outcome: str
    details: list[str]
    seconds: float


class Bench:
    """A folder in which cells are run, one after the other; always the same one, for the drivers keep paths."""

    def __init__(self, folder: Path, sabotage: str = "") -> None:
        """Say where.

        Args:
            folder: The folder.
            sabotage: What the laboratory's own test breaks: `leak` or `stuck`.
        """
        self._house = folder / "house"
        self._ready = folder / "ready"
        self._output = folder / "output"
        self._sabotage = sabotage

    def points(self, scenario: Scenario) -> list[Point]:
        """Run a scenario without faults but its own, and return its points."""

        def act() -> dict[str, Any]:
            house = self._open(scenario)
            id = _asked(house, scenario)
            house.ended(id)
            wait_until(
                lambda: _noted(id), deadline=ENDS, what="the engine's last note", next_step="-", poll=0.01
            )
            house.faults.armed = False
            return {"seen": [asdict(point) for point in house.faults.seen]}

        self._copy(scenario)
        life = live(act, self._fresh_output())
        if life.told is None:
            raise RuntimeError(f"{scenario.name} cannot be recorded: {life.trouble or 'it died'}")
        points = [Point(**point) for point in life.told["seen"]]
        return [point for point in points if scenario.points(point)]

    def run(self, cell: Cell) -> Result:
        """Run one cell."""
        begun = time.monotonic()
        scenario = find(cell.scenario)
        self._copy(scenario)

        def first() -> dict[str, Any]:
            house = self._open(scenario, cell)
            id = _asked(house, scenario)
            house.quiet()
            with suppress(DeadlineExceeded):  # where the engine has lost it, that is found below
                wait_until(
                    lambda: _noted(id), deadline=5, what="the engine's last note", next_step="-", poll=0.01
                )
            told = self._aftermath(house, cell, scenario)
            return told | {"reached": any(point == cell.point for point, _ in house.faults.injected)}

        def second() -> dict[str, Any]:
            house = self._open(scenario)
            house.faults.choose = lambda point: None
            with house.parts.db.read() as session:
                running = session.scalars(select(Operation.id).where(Operation.ended_at.is_(None))).all()
            for id in running:
                scenario.during(house, id)
            return self._aftermath(house, cell, scenario) | {"reached": True}

        life = live(first, self._fresh_output())
        if life.killed and cell.fault.deadly:
            life = live(second, self._output)
        return self._result(cell, life, time.monotonic() - begun)

    # --- a life ------------------------------------------------------------------------------------------

    def _open(self, scenario: Scenario, cell: Cell | None = None) -> House:
        """Start the service in this process, with what goes wrong in this cell."""
        faulthandler.enable()
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(threadName)s %(name)s: %(message)s")
        faults = Faults()

        def choose(point: Point) -> Fault | None:
            if cell is not None and point == cell.point:
                return cell.fault
            return scenario.planted.get((point.family, point.verb, point.number))

        faults.choose = choose
        watch_commits(faults)
        return House(self._house, faults).open()

    def _aftermath(self, house: House, cell: Cell, scenario: Scenario) -> dict[str, Any]:
        """Wait for the end, look at what is there, and give everything back."""
        calm = house.quiet()
        house.faults.armed = False
        house.faults.land()
        if not calm:
            return {"ending": "", "problems": broken_promises(house.parts), "left": [], "missing": []}
        ending, id = _ending(house)
        if self._sabotage:
            _sabotage(house, self._sabotage)
        problems = broken_promises(house.parts)
        left = settled(house)
        if cell.retried and ending in ("undone", "standing"):
            problems += _retry(house, scenario, id)
            left += settled(house)
        problems += give_back(house)
        if cell.used_again:
            problems += _use_again(house)
        left += settled(house)
        return {
            "ending": ending,
            "problems": problems,
            "left": sorted({str(found) for found in left if found.kind == "leaked"}),
            "missing": sorted({str(found) for found in left if found.kind == "missing"}),
        }

    def _result(self, cell: Cell, life: Life, seconds: float) -> Result:
        told = life.told or {
            "ending": "",
            "problems": [life.trouble],
            "left": [],
            "missing": [],
            "reached": True,
        }
        problems = [*told["problems"], *told["missing"]]
        if not told["reached"]:
            problems.append("the point was never reached")
        outcome = "stuck" if problems else "leaked" if told["left"] else told["ending"]
        return Result(
            cell=str(cell),
            workflow=cell.scenario,
            step=cell.step,
            fault=cell.fault,
            outcome=outcome,
            details=[*problems, *told["left"]],
            seconds=round(seconds, 2),
        )

    # --- files -------------------------------------------------------------------------------------------

    def _copy(self, scenario: Scenario) -> None:
        """Lay out the state that a scenario begins with; it is made when it is first wanted."""
        ready = self._ready / scenario.name.replace(" ", "-")
        if not ready.exists():
            empty = self._ready / "empty"
            if not empty.exists():
                self._prepare(None, House.furnish)
                shutil.copytree(self._house, empty)
            self._prepare(empty, scenario.before)
            shutil.copytree(self._house, ready)
        shutil.rmtree(self._house, ignore_errors=True)
        shutil.copytree(ready, self._house)

    def _prepare(self, origin: Path | None, make: Any) -> None:
        def act() -> dict[str, Any]:
            house = House(self._house).open()
            make(house)
            house.close()
            return {}

        shutil.rmtree(self._house, ignore_errors=True)
        if origin is not None:
            shutil.copytree(origin, self._house)
        life = live(act, self._fresh_output())
        if life.told is None:
            raise RuntimeError(f"the beginning cannot be made: {life.trouble}")

    def _fresh_output(self) -> Path:
        self._output.parent.mkdir(parents=True, exist_ok=True)
        self._output.unlink(missing_ok=True)
        return self._output


# --- what is done in a life ----------------------------------------------------------------------------------


def _asked(house: House, scenario: Scenario) -> UUID:
    """Ask for the scenario's operation, with its faults, and do what somebody does meanwhile."""
    id: list[UUID] = []

    def cancel() -> None:
        with house.parts.db.read() as session:
            running = session.scalars(select(Operation.id).where(Operation.ended_at.is_(None))).one()
        house.api.post(f"/v1/operations/{running}/cancel")

    house.faults.cancel = cancel
    house.faults.armed = True
    id.append(scenario.ask(house))
    scenario.during(house, id[0])
    return id[0]


def _noted(id: UUID) -> bool:
    """Say whether the engine has written down that an operation has ended, which it does last."""
    found = DBOS.get_workflow_status(str(id))
    return found is not None and found.status != "PENDING"


def settled(house: House) -> list[Difference]:
    """Return what differs, after one convergence if anything does."""
    if not differences(house.parts):
        return []
    house.converge()
    house.quiet()  # what came late may take an operation
    return differences(house.parts)


def _ending(house: House) -> tuple[str, UUID]:
    """Say how the last operation came out."""
    with house.parts.db.read() as session:
        row = session.scalars(select(Operation).order_by(Operation.id.desc()).limit(1)).one()
        if row.ending is Ending.STUCK:  # with the node or the thing left for a look
            return "standing", row.id
        return ("done" if row.ending is Ending.SUCCEEDED else str(row.ending)), row.id


def _retry(house: House, scenario: Scenario, id: UUID) -> list[str]:
    """Ask for the same again; without a fault it must end well."""
    try:
        again = house.ask("POST", f"/operations/{id}/retry")
    except Refused as refused:
        return [f"retry: {refused}"]
    scenario.during(house, again)
    operation = house.ended(again)
    good = operation["state"] == scenario.good
    return [] if good else [f"retry: it {operation['state']}: {operation['error']}"]


def give_back(house: House) -> list[str]:
    """Bring everything back to what a site begins with, as a user would, and say what could not be."""
    refused: list[str] = []
    for _ in range(_ROUNDS):
        wanted = _to_give_back(house)
        if not wanted:
            break
        refused = []
        for method, path in wanted:
            try:
                house.done(method, path, _body(method, path))
            except Refused as error:
                refused.append(str(error))
    return refused or [f"still there: {path}" for _, path in _to_give_back(house)]


def _body(method: str, path: str) -> dict[str, Any] | None:
    if path.endswith("/reset"):
        return {"assume_clean": True}
    return {} if method == "POST" else None


_WAYS_BACK = {NodeState.FAILED: "reset", NodeState.ALLOCATED: "release"}


def _to_give_back(house: House) -> list[tuple[str, str]]:
    with house.parts.db.read() as session:
        nodes = session.scalars(select(Node).where(Node.state != NodeState.AVAILABLE)).all()
        disks = session.scalars(select(Disk)).all()
        images = session.scalars(select(Image).where(Image.name != IMAGE)).all()
        networks = session.scalars(select(Network).where(Network.name != NETWORK)).all()
    booted = {disk.name for disk in disks} if nodes else set()
    return [
        *(("POST", f"/nodes/{node.name}/{_WAYS_BACK.get(node.state, 'deprovision')}") for node in nodes),
        *(
            ("DELETE", f"/disks/{disk.id}?project={disk.project.name}")
            for disk in disks
            if disk.name not in booted
        ),
        *(("POST", f"/images/{image.id}/purge") for image in images),
        *(("DELETE", f"/networks/{network.id}?project={PROJECT}") for network in networks),
    ]


def _use_again(house: House) -> list[str]:
    """Provision a node and give it back: whatever happened before, that works."""
    body = {"image": IMAGE, "network": NETWORK, "project": PROJECT, "until": "power"}
    try:
        house.done("POST", f"/nodes/{NODES[0]}/provision", body)
        if wrong := [*broken_promises(house.parts), *map(str, differences(house.parts))]:
            return [f"used again: {what}" for what in wrong]
        house.done("POST", f"/nodes/{NODES[0]}/deprovision", {})
    except Refused as refused:
        return [f"used again: {refused}"]
    return []


def _sabotage(house: House, what: str) -> None:
    """Do what a broken product would do, for the laboratory's own test."""
    from bmi.ids import new_id

    if what == "leak":
        house.parts.storage.write_seed(new_id(), b"forgotten")
    else:
        with house.parts.db.write() as session:
            session.scalars(select(Node)).first().state = NodeState.DEPROVISIONING  # type: ignore[union-attr]


# --- the matrix ----------------------------------------------------------------------------------------------


def find(name: str) -> Scenario:
    """Return a scenario by its name."""
    return next(scenario for scenario in SCENARIOS if scenario.name == name)


def cells_of(scenario: Scenario, points: Sequence[Point]) -> Iterator[Cell]:
    """Return the cells of a scenario: each point with each fault that it can have."""
    for point in points:
        for fault in possible(point.family, point.verb):
            if (point.family, point.verb, point.number) in scenario.planted and fault is not Fault.DIES:
                continue  # something goes wrong there already
            yield Cell(scenario.name, point.family, point.verb, point.number, point.step, fault)


def evenly(things: Sequence[T], number: int) -> list[T]:
    """Return that many of them, from the first to the last."""
    count = min(number, len(things))
    return [things[index * len(things) // count] for index in range(count)]


class Laboratory:
    """The matrix, run by several processes side by side."""

    def __init__(self, jobs: int, sabotage: str = "") -> None:
        """Say how many cells are run at a time, and what the laboratory's own test breaks."""
        self._jobs = jobs
        self._sabotage = sabotage
        self._pool: ProcessPoolExecutor | None = None

    @contextmanager
    def at_work(self) -> Iterator["Laboratory"]:
        """Work in a folder in memory while the context is open."""
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(
            prefix="bmi-faults-", dir=memory if memory.is_dir() else None
        ) as folder:
            warm_up(Path(folder) / "warm")
            gc.freeze()
            self._pool = ProcessPoolExecutor(
                self._jobs, get_context("fork"), _sit_down, (Path(folder), self._sabotage)
            )
            try:
                yield self
            finally:
                self._pool.shutdown(cancel_futures=True)

    def cells(self, only: str = "", fault: Fault | None = None, short: int | None = None) -> list[Cell]:
        """Find out what the cells are.

        Args:
            only: Beginning of the names of the workflows that are wanted.
            fault: The fault that is wanted; all if None.
            short: How many are wanted, evenly chosen among some of the workflows; all if None.
        """
        assert self._pool is not None
        wanted = [scenario for scenario in SCENARIOS if scenario.name.startswith(only)]
        if short == 0:
            return []
        if short is not None:
            wanted = evenly(wanted, max(1, short // _CELLS_EACH))
        points = self._pool.map(_points, [scenario.name for scenario in wanted])
        cells = [
            cell for scenario, there in zip(wanted, points, strict=True) for cell in cells_of(scenario, there)
        ]
        cells = [cell for cell in cells if fault in (None, cell.fault)]
        return cells if short is None else evenly(cells, short)

    def results(self, cells: Sequence[Cell]) -> Iterator[Result]:
        """Run cells, in no order that means anything, and give each result as it comes."""
        assert self._pool is not None
        running = [self._pool.submit(_run, cell) for cell in sorted(cells, key=_lot)]
        for future in as_completed(running):
            yield future.result()


_bench: Bench


def _sit_down(folder: Path, sabotage: str) -> None:
    global _bench
    _bench = Bench(folder / str(os.getpid()), sabotage)


def _points(scenario: str) -> list[Point]:
    return _bench.points(find(scenario))


def _run(cell: Cell) -> Result:
    result = _bench.run(cell)
    if result.outcome == "stuck" and result.details[:1] == ["the point was never reached"]:
        result = _bench.run(cell)  # threads meet differently now and then
    return result
