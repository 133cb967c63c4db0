"""A whole service on memory drivers, for tests of what the rooms do with each other.

`--database=postgresql` runs them on a real PostgreSQL instead of SQLite, and leaves out what needs no database.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from bmi import server
from bmi.access.service import ADMIN_TOKEN_FILE, bootstrap
from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.drivers.storage import Storage
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.settings import Settings
from tests.databases import Cluster, cluster, sqlite
from tests.fakes import FakeDnsmasq, FakeNodeHttp

IMAGE_SIZE = 1 << 20


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="what the tests that need a database run on",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--database") == "sqlite":
        return
    wanted = [item for item in items if "database_url" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Cluster | None]:
    """Give one server for all tests; None where they run on SQLite."""
    if request.config.getoption("--database") == "sqlite":
        yield None
        return
    with cluster() as server:
        yield server


@pytest.fixture
def database_url(postgres: Cluster | None, tmp_path: Path) -> Iterator[str]:
    """Give a database of the test's own, with the service's tables."""
    if postgres is None:
        yield sqlite(tmp_path / "state" / "bmi.db")
    else:
        with postgres.database() as url:
            yield url


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return Settings.model_validate(
        {
            "database": {"url": database_url},
            "state_dir": tmp_path / "state",
            "cache_dir": tmp_path / "cache",
            "storage": {"driver": "memory"},
            "target": {"driver": "memory"},
            "leg": {"driver": "memory"},
            "power": {"memory": {}},
            "switches": {"sw1": {"driver": "memory"}},
        }
    )


@pytest.fixture
def parts(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """The parts of a service; the daemons of the boot room are replaced, everything else is real."""
    monkeypatch.setattr(server, "Dnsmasq", lambda *args, **kwargs: cast("Dnsmasq", FakeDnsmasq()))
    monkeypatch.setattr(server, "NodeHttp", lambda *args, **kwargs: cast("NodeHttp", FakeNodeHttp()))
    made = server.build_parts(settings)
    made.storage.prepare()
    yield made
    made.close()


@pytest.fixture
def api(parts: Parts, settings: Settings) -> Iterator[TestClient]:
    """The service's API with the first admin's token."""
    bootstrap(parts.db, settings.state_dir)
    token = (settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()
    with TestClient(server.build_app(parts), headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


class Site:
    """Says what a test needs of the world in a line each."""

    def __init__(self, api: TestClient, parts: Parts, tmp_path: Path) -> None:
        self.api = api
        self.parts = parts
        self._tmp_path = tmp_path

    def ended(self, answer: Any) -> dict[str, Any]:
        """Wait for the operation of a 202 answer."""
        assert answer.status_code == 202, answer.text
        operation = self.api.get(answer.headers["Location"], params={"wait": 30}).json()
        assert operation["ended_at"], operation
        return cast("dict[str, Any]", operation)

    def project(self, name: str) -> None:
        assert self.api.post("/v1/projects", json={"name": name}).status_code == 201

    def network(self, name: str, project: str) -> dict[str, Any]:
        self.ended(self.api.post("/v1/networks", json={"name": name, "project": project}))
        return cast("dict[str, Any]", self.api.get(f"/v1/networks/{name}?project={project}").json())

    def image(self, name: str) -> UUID:
        """Put an image into the store and the inventory."""
        from bmi.images.models import Image

        raw = self._tmp_path / f"{name}.raw"
        raw.write_bytes(b"golden".ljust(IMAGE_SIZE, b"\0"))
        id = new_id()
        self.parts.storage.import_image(id, raw, lambda done, total: None)
        with self.parts.db.write() as session:
            session.add(Image(id=id, name=name, state="ready", origin="import", size=IMAGE_SIZE))
        return id

    def node(self, name: str, number: int) -> dict[str, Any]:
        answer = self.api.post(
            "/v1/nodes",
            json={
                "name": name,
                "bmc": {"driver": "memory", "address": f"bmc-{name}", "username": "u", "password": "secret"},
                "nics": [{"mac": f"52:54:00:00:00:{number:02x}", "switch": "sw1", "port": f"port{number}"}],
            },
        )
        assert answer.status_code == 201, answer.text
        return cast("dict[str, Any]", answer.json())

    @property
    def storage(self) -> Storage:
        return self.parts.storage


@pytest.fixture
def site(api: TestClient, parts: Parts, tmp_path: Path) -> Site:
    return Site(api, parts, tmp_path)
