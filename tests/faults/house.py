"""A whole service on memory drivers in one folder. They keep what they made in files, so it survives a death."""

import functools
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast
from uuid import UUID

from fastapi.testclient import TestClient
from sqlalchemy import Connection, Engine, event, func, select

from bmi import connect, drivers, server
from bmi.access.service import ADMIN_TOKEN_FILE, bootstrap
from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.errors import DeadlineExceeded
from bmi.ids import new_id
from bmi.images.appliance.session import Appliance
from bmi.images.models import Image
from bmi.provisioning import converge, engine, images, workers
from bmi.provisioning.journal import Journal
from bmi.provisioning.models import Operation
from bmi.settings import Settings
from bmi.wait import wait_until
from tests.fakes import FakeDnsmasq, FakeNodeHttp
from tests.faults import warm
from tests.faults.faulty import DATABASE, ENGINE, Faults
from tests.seen_disks import answer
from tests.service import memory_settings

IMAGE_SIZE = 1 << 16
ENDS = 45.0  # seconds in which an operation must end; a fault lets it try again a few times

_POLL = 0.03  # seconds

PROJECT, NETWORK, IMAGE, NODES = "red", "net", "golden", ("n1", "n2")


class House:
    """One life of the service: from a start to its end, whatever that is."""

    def __init__(self, folder: Path, faults: Faults | None = None, *, database: str | None = None) -> None:
        """Start it.

        Args:
            folder: Where everything is.
            faults: What goes wrong; nothing if None.
            database: URL of the database; an SQLite file in the folder if None.
        """
        self.folder = folder
        self.faults = faults or Faults()
        self._stack = ExitStack()
        self._stand_in()
        self.settings = settings(folder, database)
        self.parts = server.build_parts(self.settings)
        self.parts.storage.prepare()
        bootstrap(self.parts.db, self.settings.state_dir)
        token = (self.settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()
        self.api = TestClient(
            warm.app(server.build_app(self.parts)), headers={"Authorization": f"Bearer {token}"}
        )

    def open(self) -> "House":
        """Begin to work."""
        self._stack.enter_context(self.api)
        return self

    def close(self) -> None:
        """Stop in good order."""
        self._stack.close()

    # --- asking ------------------------------------------------------------------------------------------

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> UUID:
        """Ask for an operation, and return its id.

        Raises:
            Refused: The service does not take it.
        """
        answer = self.api.request(method, f"/v1{path}", json=body)
        if answer.status_code != 202:
            raise Refused(f"{method} {path}: {answer.status_code} {answer.text}")
        return UUID(answer.json()["id"])

    def get(self, path: str) -> dict[str, Any]:
        """Return what a GET answers."""
        answer = self.api.get(f"/v1{path}")
        assert answer.status_code == 200, answer.text
        return cast("dict[str, Any]", answer.json())

    def done(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask for an operation, wait for it, and insist that it succeeds."""
        operation = self.ended(self.ask(method, path, body))
        if operation["state"] != "succeeded":
            raise Refused(f"{method} {path}: {operation['error']}")
        return operation

    def ended(self, id: UUID, seconds: float = ENDS) -> dict[str, Any]:
        """Wait for the end of an operation."""

        def over() -> bool:
            with self.parts.db.read() as session:
                return session.scalar(select(Operation.ended_at).where(Operation.id == id)) is not None

        wait_until(over, deadline=seconds, what=f"operation {id}", next_step="-", poll=_POLL)
        return self.get(f"/operations/{id}")

    def quiet(self, seconds: float = ENDS) -> bool:
        """Wait until no operation runs, and say whether that came."""

        def over() -> bool:
            with self.parts.db.read() as session:
                running = select(func.count()).select_from(Operation).where(Operation.ended_at.is_(None))
                return session.scalar(running) == 0

        try:
            return wait_until(over, deadline=seconds, what="calm", next_step="-", poll=_POLL)
        except DeadlineExceeded:
            return False

    def at_step(self, id: UUID, name: str) -> bool:
        """Wait until an operation is at a step, and say whether it came there."""

        def there() -> str | None:
            with self.parts.db.read() as session:
                row = session.get_one(Operation, id)
                running = any(step.name == name and step.ended_at is None for step in row.steps)
                return "there" if running else "over" if row.ended_at is not None else None

        found = wait_until(there, deadline=ENDS, what=f"step {name}", next_step="-", poll=_POLL)
        return found == "there"

    def converge(self) -> None:
        """Let convergence look at everything once."""
        converge.converge(self.parts)

    # --- what a site has ---------------------------------------------------------------------------------

    def furnish(self) -> None:
        """Make what every scenario begins with: a project, a network, an image, two nodes."""
        answer = self.api.post("/v1/projects", json={"name": PROJECT})
        assert answer.status_code == 201, answer.text
        self.done("POST", "/networks", {"name": NETWORK, "project": PROJECT})
        self.image(IMAGE)
        for number, name in enumerate(NODES, start=1):
            self.node(name, number)

    def node(self, name: str, number: int) -> None:
        """Register a node."""
        body = {
            "name": name,
            "bmc": {"driver": "memory", "address": f"bmc-{name}", "username": "u", "password": "secret"},
            "nics": [{"mac": f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", "switch": "sw1",
                      "port": f"port{number}"}],
        }  # fmt: skip
        answer = self.api.post("/v1/nodes", json=body)
        assert answer.status_code == 201, answer.text

    def image(self, name: str) -> None:
        """Put an image into the store and the inventory."""
        id, raw = new_id(), self._raw(name)
        self.parts.storage.import_image(id, raw, lambda done, total: None)
        with self.parts.db.write() as session:
            session.add(Image(id=id, name=name, state="ready", origin="import", size=IMAGE_SIZE))

    def to_adopt(self, name: str) -> None:
        """Let something lie in the store that is not BMI's."""
        folder = self.settings.state_dir / "storage-memory" / "adopt"
        folder.mkdir(exist_ok=True)
        self._raw(name).rename(folder / name)

    def _raw(self, name: str) -> Path:
        self.settings.cache_dir.mkdir(parents=True, exist_ok=True)
        raw = self.settings.cache_dir / f"{name}.raw"
        raw.write_bytes(name.encode().ljust(IMAGE_SIZE, b"\0"))
        return raw

    # --- how ---------------------------------------------------------------------------------------------

    def _stand_in(self) -> None:
        """Put stand-ins where the service would start daemons or build for minutes; and do not wait for long."""
        self.dnsmasq = FakeDnsmasq(self.folder / "dnsmasq.json")
        self.node_http = FakeNodeHttp()
        around = self.faults.around
        replaced: list[tuple[Any, str, Any]] = [
            (drivers, "entry_points", _entry_points),
            (connect, "open_engine", warm.open_engine),
            (server, "Dnsmasq", lambda *a, **k: cast("Dnsmasq", around(self.dnsmasq, "dnsmasq"))),
            (server, "NodeHttp", lambda *a, **k: cast("NodeHttp", around(self.node_http, "node_http"))),
            (server, "load", faulty_load(self.faults)),
            (Appliance, "ask", answer),
            (images, "build", lambda *a, **k: self._raw("built")),
            (engine, "FIRST_PAUSE", 0.01),
            (engine, "LONGEST_PAUSE", 0.05),
            (engine, "_POLL", 0.005),
            (engine, "Journal", watched(self.faults)),
            (workers, "LOST", 0.2),
        ]
        for where, name, value in replaced:
            before = getattr(where, name)
            setattr(where, name, value)
            self._stack.callback(setattr, where, name, before)


class Refused(Exception):
    """The service did not do what it must be able to do."""


_entry_points = functools.cache(drivers.entry_points)  # they are read from a hundred files


def settings(folder: Path, database: str | None = None) -> Settings:
    """Return the settings of a service on memory drivers."""
    ports = [f"port{number}" for number in range(1, 257)]
    return memory_settings(
        folder,
        database,
        switches={"sw1": {"driver": "memory", "options": {"ports": ports}}},
        cleaning={
            "image": IMAGE,
            "project": PROJECT,
            "network": NETWORK,
            "automatic": False,
            "deadline": 3,
        },
        convergence_interval=3600,  # when it is to look is the test's business
    )


def faulty_load(faults: Faults) -> Callable[..., Any]:
    """Return what the service loads its drivers with: the proxy is the driver, for all that the service knows."""

    def load(family: str, *rest: Any) -> Any:
        return faults.around(drivers.load(family, *rest), family)

    return load


def watch_commits(faults: Faults) -> None:
    """Count the commits that belong to operations: those of workflows, and of claiming them."""

    def changes(connection: Connection) -> int:
        return int(getattr(connection.connection.dbapi_connection, "total_changes", 0))

    @event.listens_for(Engine, "begin")
    def begun(connection: Connection) -> None:
        connection.info["changes"] = changes(connection)

    @event.listens_for(Engine, "commit")
    def about_to_commit(connection: Connection) -> None:
        if not (faults.here.carrying or threading.current_thread().name == "claims"):
            return
        if changes(connection) != connection.info.get("changes"):
            faults.commit(ENGINE if "engine.db" in str(connection.engine.url) else DATABASE)


def watched(faults: Faults) -> type[Journal]:
    """Return the journal that tells the proxy which step a thread is at."""

    class Watched(Journal):
        def begin(self, worker: str) -> Operation:
            faults.here.carrying, faults.here.step = True, "begin"
            self._told: set[str] = set()
            return super().begin(worker)

        def step_begun(self, name: str) -> None:
            faults.here.step = f"undo {name}" if name in self._told else name
            self._told.add(name)
            super().step_begun(name)

        def end(self, *args: Any) -> None:
            faults.here.step = "end"
            super().end(*args)

    return Watched
