"""A whole service on memory drivers: the daemons of the boot room are replaced, everything else is real."""

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch
from uuid import UUID

from fastapi.testclient import TestClient

from bmi import server
from bmi.access.service import ADMIN_TOKEN_FILE, bootstrap
from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.drivers.storage import Storage
from bmi.ids import new_id
from bmi.images.models import Image
from bmi.parts import Parts
from bmi.settings import Settings
from tests.fakes import FakeDnsmasq, FakeNodeHttp

IMAGE_SIZE = 1 << 20


def memory_settings(folder: Path, database_url: str | None, **others: Any) -> Settings:
    """Return the settings of a service whose drivers are all `memory`.

    Args:
        folder: Where everything is.
        database_url: URL of the database; an SQLite file in the state folder if None.
        others: Settings that are otherwise.
    """
    return Settings.model_validate(
        {
            "database": {"url": database_url},
            "state_dir": folder / "state",
            "cache_dir": folder / "cache",
            "storage": {"driver": "memory"},
            "target": {"driver": "memory"},
            "leg": {"driver": "memory"},
            "power": {"memory": {}},
            "switches": {"sw1": {"driver": "memory"}},
            "access": {"address_attempts": 10**6},  # all tests come from one address
            "convergence_interval": 3600.0,  # a slow test must not see it come by
            **others,
        }
    )


@contextmanager
def memory_parts(settings: Settings) -> Iterator[Parts]:
    """Give the parts of a service."""
    with (
        patch.object(server, "Dnsmasq", lambda *args, **kwargs: cast("Dnsmasq", FakeDnsmasq())),
        patch.object(server, "NodeHttp", lambda *args, **kwargs: cast("NodeHttp", FakeNodeHttp())),
    ):
        made = server.build_parts(settings)
        with closing(made):
            made.storage.prepare()
            yield made


@contextmanager
def serving(parts: Parts, settings: Settings) -> Iterator[TestClient]:
    """Give the service's API with the first admin's token."""
    bootstrap(parts.db, settings.state_dir)
    token = (settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()
    with TestClient(server.build_app(parts), headers={"Authorization": f"Bearer {token}"}) as client:
        yield client


class Site:
    """Says what a test needs of the world in a line each."""

    def __init__(self, api: TestClient, parts: Parts, folder: Path) -> None:
        self.api = api
        self.parts = parts
        self._folder = folder

    def ended(self, answer: Any) -> dict[str, Any]:
        """Wait for the operation of a 202 answer."""
        assert answer.status_code == 202, answer.text
        operation = self.api.get(answer.headers["Location"], params={"wait": 30}).json()
        assert operation["ended_at"], operation
        return cast("dict[str, Any]", operation)

    def project(self, name: str) -> None:
        answer = self.api.post("/v1/projects", json={"name": name})
        assert answer.status_code == 201, answer.text

    def network(self, name: str, project: str) -> dict[str, Any]:
        self.ended(self.api.post("/v1/networks", json={"name": name, "project": project}))
        return cast("dict[str, Any]", self.api.get(f"/v1/networks/{name}?project={project}").json())

    def image(self, name: str) -> UUID:
        """Put an image into the store and the inventory."""
        raw = self._folder / f"{name}.raw"
        raw.write_bytes(b"golden".ljust(IMAGE_SIZE, b"\0"))
        id = new_id()
        self.parts.storage.import_image(id, raw, lambda done, total: None)
        with self.parts.db.write() as session:
            session.add(Image(id=id, name=name, state="ready", origin="import", size=IMAGE_SIZE))
        return id

    def node(self, name: str, number: int, cards: int = 1) -> dict[str, Any]:
        """Register a node, whose further cards are on ports beyond the tens: 11, 21 for number 1."""
        answer = self.api.post(
            "/v1/nodes",
            json={
                "name": name,
                "bmc": {"driver": "memory", "address": f"bmc-{name}", "username": "u", "password": "secret"},
                "nics": [
                    {
                        "mac": f"52:54:00:00:{card:02x}:{number:02x}",
                        "switch": "sw1",
                        "port": f"port{number + 10 * card}",
                    }
                    for card in range(cards)
                ],
            },
        )
        assert answer.status_code == 201, answer.text
        return cast("dict[str, Any]", answer.json())

    @property
    def storage(self) -> Storage:
        return self.parts.storage


@contextmanager
def memory_site(folder: Path, database_url: str) -> Iterator[Site]:
    """Give a service that works, and what tests need of the world."""
    settings = memory_settings(folder, database_url)
    with memory_parts(settings) as parts, serving(parts, settings) as api:
        yield Site(api, parts, folder)
