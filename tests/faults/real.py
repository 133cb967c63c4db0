"""The short matrix on real daemons: the service is killed at each call of a workflow, and started again.

A lab's switch, targets, DHCP servers, storage and management controllers; its nodes do not come further than their
firmware. What is left is read from the daemons, by another process than the service.
"""

import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from signal import SIGUSR1
from uuid import UUID

from sqlalchemy import select

from bmi import processes
from bmi.access import service as access
from bmi.api.access import ProjectCreate
from bmi.api.images import ImageAdopt
from bmi.api.networks import NetworkCreate
from bmi.api.nodes import Milestone, NodeState, Provision
from bmi.api.operations import Ending, Operation
from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.loaders import Loaders
from bmi.client import Client
from bmi.client.errors import ApiError, OperationFailed
from bmi.db import Db
from bmi.drivers import Site, load
from bmi.gateways.models import Gateway
from bmi.ids import short
from bmi.lab.lab import Lab
from bmi.parts import GatewayParts, Parts
from bmi.settings import load_settings
from bmi.signals import Signals
from bmi.vault import Vault
from bmi.wait import wait_until
from tests.databases import free_port
from tests.fakes import FakeNodeHttp
from tests.faults.faulty import VERBS, Fault, Point
from tests.faults.laboratory import Cell, Result
from tests.faults.reality import broken_promises, differences

ON_REAL = "on real daemons"
"""What these workflows are called in the table, besides their verbs."""

_ENDS = 120.0  # seconds
_IMAGE_SIZE = 1 << 20
PROJECT, NETWORK, IMAGE, NODE = "red", "net", "golden", "n1"


@dataclass(frozen=True)
class Workflow:
    """A verb, and how it is asked for here."""

    verb: str
    ask: Callable[[Client], Operation]
    before: Callable[[Client], object] = lambda client: None


def _provision(client: Client) -> Operation:
    return client.nodes.provision(NODE, Provision(image=IMAGE, network=NETWORK, until=Milestone.POWER))


def _active(client: Client) -> object:
    return client.operations.wait(_provision(client).id, timeout=_ENDS)


def _network(client: Client) -> object:
    return client.operations.wait(client.networks.create(NetworkCreate(name="net2")).id, timeout=_ENDS)


WORKFLOWS = (
    Workflow("node.provision", _provision),
    Workflow("node.deprovision", lambda client: client.nodes.deprovision(NODE), _active),
    Workflow("network.create", lambda client: client.networks.create(NetworkCreate(name="net2"))),
    Workflow("network.delete", lambda client: client.networks.delete("net2"), _network),
)


class Yard:
    """A lab whose service dies again and again."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._config = lab.folder / "service.toml"
        self._calls = lab.folder / "calls"

    def points(self, workflow: Workflow) -> list[Point]:
        """Run a workflow without a fault, and return its calls that change something."""
        with self._client() as client:
            self._begin(client, workflow)
            self._ended(client, workflow.ask(client).id)
            self._give_back(client)
        seen = [Point(**json.loads(line)) for line in self._calls.read_text().splitlines()]
        # What was counted after the operation had ended belongs to giving back.
        end = next(index for index, point in enumerate(seen) if point.step == "end")
        return [point for point in seen[:end] if point.verb in VERBS.get(point.family, {}).get("changes", ())]

    def run(self, cell: Cell, workflow: Workflow, following: Cell | None) -> Result:
        """Let the service die at a point of a workflow, start it again, and look.

        Args:
            cell: What goes wrong; the service that runs was started to die there.
            workflow: What is asked for.
            following: The next cell: the service that is started again dies there.
        """
        begun = time.monotonic()
        process = self._lab.service_process()
        assert process is not None
        with self._client() as client:
            self._begin(client, workflow)
            asked = workflow.ask(client)
        wait_until(lambda: not process.alive(), deadline=_ENDS, what="the service to die", next_step="-")
        self.serve(following)
        problems, left = [], []
        with self._client() as client:
            ended = self._ended(client, asked.id)
            problems += self._broken(client)
            left += self._differences()
            problems += self._give_back(client)
            left += self._differences()
        leaked = [found for found in left if found.startswith("leaked")]
        problems += [found for found in left if not found.startswith("leaked")]
        outcome = "done" if ended.ending is Ending.SUCCEEDED else str(ended.ending)
        return Result(
            cell=str(cell),
            workflow=cell.scenario,
            step=cell.step,
            fault=cell.fault,
            outcome="stuck" if problems else "leaked" if leaked else outcome,
            details=[*problems, *leaked],
            seconds=round(time.monotonic() - begun, 2),
        )

    # --- the service -------------------------------------------------------------------------------------

    def serve(self, cell: Cell | None) -> None:
        """Put a service in the place of the lab's own that dies where a cell says, once it is asked to count."""
        if running := self._lab.service_process():
            running.stop()
        point = json.dumps(asdict(cell.point) if cell else None)
        fault = cell.fault if cell else Fault.DIES
        process = processes.start(
            [sys.executable, "-m", "tests.faults.deadly", self._config, self._calls, point, fault],
            record=self._lab.folder / "service.json",
            log=self._lab.folder / "service.log",
        )
        process.on_exit(lambda: None)  # reaps it
        self._lab.start_service()  # finds it running, and waits until it answers

    def _begin(self, client: Client, workflow: Workflow) -> None:
        """Make what a workflow begins with, and let the service count from then on."""
        workflow.before(client)
        process = self._lab.service_process()
        assert process is not None
        self._calls.unlink(missing_ok=True)
        process.signal(SIGUSR1)
        wait_until(self._calls.exists, deadline=10, what="the service to count", next_step="-")

    def _client(self) -> Client:
        return self._lab.client(PROJECT)

    def _ended(self, client: Client, id: UUID) -> Operation:
        try:
            return client.operations.wait(id, timeout=_ENDS)
        except OperationFailed:
            return client.operations.get(id)

    # --- looking -----------------------------------------------------------------------------------------

    def _broken(self, client: Client) -> list[str]:
        with looked_at(self._config) as parts:
            broken = broken_promises(parts)
        findings = client.doctor().findings
        errors = [found for found in findings if getattr(found, "severity", "error") == "error"]
        return [*broken, *(f"doctor: {found.thing}: {found.message}" for found in errors)]

    def _differences(self) -> list[str]:
        with looked_at(self._config) as parts:
            return [str(found) for found in differences(parts)]

    def _give_back(self, client: Client) -> list[str]:
        """Bring everything back to what the lab begins with, and say what could not be."""
        try:
            for node in client.nodes.list():
                if node.state is not NodeState.AVAILABLE:
                    how = client.nodes.reset if node.state is NodeState.FAILED else client.nodes.deprovision
                    client.operations.wait(how(node.name).id, timeout=_ENDS)
            for disk in client.disks.list():
                client.operations.wait(client.disks.delete(disk.name).id, timeout=_ENDS)
            for network in client.networks.list():
                if network.name != NETWORK:
                    client.operations.wait(client.networks.delete(network.name).id, timeout=_ENDS)
        except (ApiError, OperationFailed) as error:
            return [f"give back: {error}"]
        return []


class SeenDnsmasq(Dnsmasq):
    """Says which hosts the real servers were told to answer, as the stand-in does."""

    @property
    def hosts(self) -> dict[UUID, list["SeenHost"]]:
        return {
            network: [
                SeenHost(line.split(",")[0]) for line in self._files(network).hosts.read_text().splitlines()
            ]
            for network in self.running()
        }


@dataclass(frozen=True)
class SeenHost:
    """A line of a hosts file."""

    mac: str


@contextmanager
def looked_at(config: Path) -> Iterator[Parts]:
    """Give the drivers and the database of a service that runs, to read what there is."""
    settings = load_settings(config)
    db = Db(settings.database_url, command=True)
    site = Site(settings.state_dir, short(access.installation(db))[:8])
    own = Site(settings.state_dir, (settings.state_dir / "mark").read_text().strip())
    with db.read() as session:
        row = session.scalars(select(Gateway)).one()
    here = GatewayParts(
        id=row.id,
        name=row.name,
        number=row.number,
        target=load("target", settings.target.driver, settings.target.options, own),
        legs=load("leg", settings.leg.driver, settings.leg.options, own),
        dnsmasq=SeenDnsmasq(own, loaders=Loaders(settings.boot)),
        node_http=FakeNodeHttp(),  # type: ignore[arg-type]
    )
    for leg in here.legs.legs():  # what listens there is in the service's own process, and ends with it
        here.node_http.serve(leg.network, leg.namespace, "", 0)
    parts = Parts(
        settings=settings,
        site=site,
        db=db,
        vault=Vault(settings.key_file or settings.state_dir / "secret.key"),
        signals=Signals(db),
        storage=load("storage", settings.storage.driver, settings.storage.options, site),
        switches={
            name: load("switch", named.driver, named.options, site)
            for name, named in settings.switches.items()
        },
        powers={name: load("power", name, options, site) for name, options in settings.power.items()},
        here=here,
    )
    parts.storage.prepare()
    try:
        yield parts
    finally:
        parts.close()


@contextmanager
def yard() -> Iterator[Yard]:
    """Give a lab with a network and a small image, and take it down."""
    folder = Path(tempfile.mkdtemp(prefix="bmi-real-"))  # Unix sockets have short paths
    lab = Lab(folder / "lab")
    try:
        lab.up(1, free_port(), lambda what, seconds: None)
        with lab.client() as client:
            client.projects.create(ProjectCreate(name=PROJECT))
        with lab.client(PROJECT) as client:
            client.operations.wait(client.networks.create(NetworkCreate(name=NETWORK)).id, timeout=_ENDS)
            (adopted,) = (lab.folder / "service").rglob("adopt")
            (adopted / "tiny.raw").write_bytes(b"tiny".ljust(_IMAGE_SIZE, b"\0"))
            request = ImageAdopt(name=IMAGE, source="tiny.raw")
            client.operations.wait(client.images.adopt(request).id, timeout=_ENDS)
        yield Yard(lab)
    finally:
        lab.down(lambda what, seconds: None)
        shutil.rmtree(folder)


def real_results(kept: Mapping[str, Result]) -> Iterator[Result]:
    """Run the short matrix: each call of each of the workflows, dying before and after it.

    Args:
        kept: What was run before and is taken as it is.
    """
    with yard() as place:
        place.serve(None)
        cells = [
            (Cell(f"{workflow.verb} {ON_REAL}", at.family, at.verb, at.number, at.step, fault), workflow)
            for workflow in WORKFLOWS
            for at in place.points(workflow)
            for fault in (Fault.DIES, Fault.DIES_AFTER)
        ]
        yield from (kept[str(cell)] for cell, _ in cells if str(cell) in kept)
        cells = [(cell, workflow) for cell, workflow in cells if str(cell) not in kept]
        if cells:
            place.serve(cells[0][0])
        for (cell, workflow), following in zip(cells, [*cells[1:], None], strict=True):
            yield place.run(cell, workflow, following[0] if following else None)
