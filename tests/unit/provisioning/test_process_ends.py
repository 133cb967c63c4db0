"""A process that ends in the middle of an operation: the next one goes on, and nothing has failed."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from bmi import server
from bmi.access.service import ADMIN_TOKEN_FILE, bootstrap
from bmi.errors import BmcUnreachable, StorageUnreachable
from bmi.parts import Parts
from bmi.provisioning import engine
from bmi.settings import Settings
from tests.fakes import FakeDnsmasq, FakeNodeHttp
from tests.service import Site
from tests.unit.provisioning.test_provision import NOTHING, left, node, provision

Process = Callable[[Callable[[TestClient, Parts], None]], None]


@pytest.fixture
def process(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Process:
    """Run something in a process of the service, as far as one can be had inside of this one, and end it."""
    monkeypatch.setattr(server, "Dnsmasq", lambda *args, **kwargs: cast("Any", FakeDnsmasq()))
    monkeypatch.setattr(server, "NodeHttp", lambda *args, **kwargs: cast("Any", FakeNodeHttp()))

    def run(call: Callable[[TestClient, Parts], None]) -> None:
        parts = server.build_parts(settings)
        parts.storage.prepare()
        bootstrap(parts.db, settings.state_dir)
        token = (settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        with TestClient(server.build_app(parts), headers=headers) as client:
            call(client, parts)

    return run


def furnish(api: TestClient, parts: Parts, tmp_path: Path) -> None:
    site = Site(api, parts, tmp_path)
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)


@pytest.mark.parametrize("moment", ["between tries", "inside a step", "while it is undone"])
def test_an_operation_is_taken_up_where_it_was(
    process: Process, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    begun, let_go = threading.Event(), threading.Event()

    def hindered(*_: object) -> None:
        begun.set()
        if moment == "inside a step":
            let_go.wait(10)
        raise StorageUnreachable("the store is away", next_step="wait")

    def unreachable(*_: object) -> None:
        raise BmcUnreachable("the BMC is silent", next_step="check its cable")

    def first(api: TestClient, parts: Parts) -> None:
        furnish(api, parts, tmp_path)
        if moment == "while it is undone":
            monkeypatch.setattr(engine, "FIRST_PAUSE", 0.01)
            parts.powers["memory"].on = unreachable  # type: ignore[method-assign]
            parts.storage.remove = hindered  # type: ignore[assignment,method-assign]
        else:
            parts.storage.write_seed = hindered  # type: ignore[assignment,method-assign]
        answer = provision(api)
        assert answer.status_code == 202
        assert begun.wait(20)
        if moment == "inside a step":
            # It ends only after the process has begun to end.
            threading.Timer(0.5, let_go.set).start()

    def second(api: TestClient, parts: Parts) -> None:
        (found,) = api.get("/v1/operations?node=n1").json()["items"]
        ended = api.get(f"/v1/operations/{found['id']}", params={"wait": 30}).json()
        if moment == "while it is undone":
            assert (ended["state"], ended["ending"]) == ("failed", "undone")
            assert node(api)["state"] == "available"
            assert left(api) == NOTHING
        else:
            assert ended["state"] == "succeeded", ended
            assert node(api)["state"] == "active"
        assert not any(step["state"] == "failed" for step in ended["steps"] if step["name"] == "seed")

    process(first)
    process(second)
