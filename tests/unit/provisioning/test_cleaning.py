"""Local disks are wiped between two tenants, on memory drivers: what is reported, and what goes wrong."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi.api.nodes import Milestone
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.drivers.power import Bmc, PowerState
from bmi.errors import BmcRefused
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.provisioning import converge, engine
from bmi.provisioning.cleaning import clean_what_waits
from bmi.provisioning.models import Operation
from bmi.settings import Cleaning, Settings
from bmi.wait import wait_until
from tests.service import memory_settings
from tests.unit.provisioning.test_provision import NOTHING, is_reset, left, node, provision, tamper

WIPED = ["vda 64M: overwritten with zeros"]
BROKEN = ["vda 64M: overwritten with zeros", "vdb 1T: failed: Input/output error"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FIRST_PAUSE", 0.01)


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return memory_settings(tmp_path, database_url, cleaning={"image": "cleaner", "deadline": 20})


@pytest.fixture(autouse=True)
def places(site: Any) -> None:
    site.project("red")
    site.network("net", "red")
    site.project("cleaning")
    site.network("cleaning", "cleaning")
    site.image("golden")
    site.image("cleaner")
    site.node("n1", 1)
    site.node("n2", 2)


@contextmanager
def reporting(parts: Parts, disks: Sequence[str] | None) -> Iterator[None]:
    """Let the next node that is booted to be cleaned come up, and say this of its disks."""
    stop = threading.Event()

    def report() -> None:
        while not stop.wait(0.02):
            with parts.db.write() as session:
                row = session.scalar(select(Boot).where(Boot.cleaning))
                if row is not None and row.milestone is Milestone.POWER:
                    boot.came_up(session, row, "n1", [], disks)
                    return

    thread = threading.Thread(target=report)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def give_back(api: TestClient, site: Any) -> None:
    assert site.ended(provision(api))["state"] == "succeeded"
    assert site.ended(api.post("/v1/nodes/n1/deprovision", json={}))["state"] == "succeeded"


def cleaned(api: TestClient, parts: Parts, disks: Sequence[str] | None = tuple(WIPED)) -> dict[str, Any]:
    """Have what waits be cleaned, and return how that ended."""
    with reporting(parts, disks):
        clean_what_waits(parts)
        return last(api, parts)


def last(api: TestClient, parts: Parts) -> dict[str, Any]:
    """Wait for the last cleaning."""
    with parts.db.read() as session:
        wanted = select(Operation.id).where(Operation.verb == "node.clean").order_by(Operation.id.desc())
        id = session.scalars(wanted.limit(1)).one()
    return cast("dict[str, Any]", api.get(f"/v1/operations/{id}", params={"wait": 30}).json())


def test_a_node_that_was_given_back_is_wiped_before_anybody_gets_it(
    api: TestClient, site: Any, parts: Parts
) -> None:
    give_back(api, site)
    found = node(api)
    assert (found["state"], found["project"], found["disk"]) == ("cleaning", None, None)
    assert provision(api).status_code == 409  # nobody gets it meanwhile
    tamper(parts)

    done = cleaned(api, parts)
    assert done["state"] == "succeeded", done
    assert {step["name"]: step["detail"] for step in done["steps"]}["report"] == WIPED[0]
    found = node(api)
    assert (found["state"], found["project"], found["problem"]) == ("available", None, None)
    assert left(api) == NOTHING
    assert is_reset(parts)
    assert parts.powers["memory"].state(Bmc("bmc-n1", "u", "secret")) is PowerState.OFF
    assert site.ended(provision(api))["state"] == "succeeded"


def test_a_node_that_no_tenant_had_is_not_wiped(api: TestClient, site: Any, parts: Parts) -> None:
    failing = site.ended(provision(api, image="golden", until="up", deadline=0.05))
    assert failing["state"] == "failed"
    clean_what_waits(parts)
    assert node(api, "n2")["state"] == "available"


def test_only_a_node_to_be_cleaned_is_told_to_wipe(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[str | None] = []
    build = boot.build_seed
    monkeypatch.setattr(
        boot, "build_seed", lambda content, texts: seeds.append(content.cleaning) or build(content, texts)
    )
    give_back(api, site)
    assert set(seeds) == {None}
    seeds.clear()
    cleaned(api, parts)
    assert set(seeds) == {"full"}


@pytest.mark.parametrize(
    ("disks", "words"),
    [(BROKEN, "vdb 1T: failed: Input/output error"), (None, "let cleaning.image name one")],
)
def test_what_was_not_wiped_goes_to_nobody(
    api: TestClient, site: Any, parts: Parts, disks: list[str] | None, words: str
) -> None:
    give_back(api, site)
    assert cleaned(api, parts, disks)["state"] == "failed"
    found = node(api)
    assert found["state"] == "failed"
    assert words in found["problem"]
    assert "--assume-clean" in found["problem"]

    retry = found["problem"].partition("bmi op retry ")[2].partition(";")[0]
    with reporting(parts, WIPED):
        again = site.ended(api.post(f"/v1/operations/{retry}/retry"))
    assert again["state"] == "succeeded", again
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING


def test_a_node_without_disks_of_its_own_is_clean(api: TestClient, site: Any, parts: Parts) -> None:
    give_back(api, site)
    done = cleaned(api, parts, [])
    assert {step["name"]: step["detail"] for step in done["steps"]}["report"] == "it has no local disks"
    assert node(api)["state"] == "available"


def test_one_that_does_not_come_up_is_failed_and_can_be_reset(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    quickly = parts.settings.cleaning.model_copy(update={"deadline": 0.05})
    monkeypatch.setattr(parts, "settings", parts.settings.model_copy(update={"cleaning": quickly}))
    give_back(api, site)
    clean_what_waits(parts)
    assert last(api, parts)["state"] == "failed"
    assert node(api)["state"] == "failed"
    # It comes up late: that makes it nobody's all the same.
    with parts.db.write() as session:
        boot.came_up(session, session.scalars(select(Boot)).one(), "n1", [], WIPED)
    assert node(api)["state"] == "failed"

    assert site.ended(api.post("/v1/nodes/n1/reset", json={"remove_disk": True}))["state"] == "succeeded"
    assert node(api)["state"] == "cleaning"
    reset = {"remove_disk": True, "assume_clean": True}
    assert site.ended(api.post("/v1/nodes/n1/reset", json=reset))["state"] == "succeeded"
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING


def test_what_failed_before_it_ran_is_undone_and_the_node_is_nobodys(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_back(api, site)

    def refuse(*_: object) -> None:
        raise BmcRefused("the BMC refuses", next_step="ask it again")

    with monkeypatch.context() as patch:
        patch.setattr(type(cast("Any", parts.powers["memory"])._driver), "on", refuse)
        clean_what_waits(parts)
        assert last(api, parts)["ending"] == "undone"
    assert node(api)["state"] == "failed"
    assert left(api) == NOTHING
    retry = node(api)["problem"].partition("bmi op retry ")[2].partition(";")[0]
    with reporting(parts, WIPED):
        assert site.ended(api.post(f"/v1/operations/{retry}/retry"))["state"] == "succeeded"
    assert node(api)["state"] == "available"


def test_settings_that_cannot_be_used_are_told_on_the_node(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_back(api, site)
    wrong = parts.settings.cleaning.model_copy(update={"network": "nowhere"})
    with monkeypatch.context() as patch:
        patch.setattr(parts, "settings", parts.settings.model_copy(update={"cleaning": wrong}))
        converge.converge(parts)
    found = node(api)
    assert found["state"] == "cleaning"
    assert "cannot be wiped yet: there is no network nowhere" in found["problem"]
    assert cleaned(api, parts)["state"] == "succeeded"
    assert (node(api)["state"], node(api)["problem"]) == ("available", None)


def test_where_nothing_is_wiped_any_more_nodes_do_not_wait(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_back(api, site)
    monkeypatch.setattr(parts, "settings", parts.settings.model_copy(update={"cleaning": Cleaning()}))
    converge.converge(parts)
    assert node(api)["state"] == "available"
    with parts.db.read() as session:
        assert not session.scalars(select(Node).where(Node.dirty)).all()
    assert api.post("/v1/nodes/n1/clean").json()["code"] == "wrong-state"


def test_an_admin_asks_for_it(api: TestClient, site: Any, parts: Parts) -> None:
    with reporting(parts, WIPED):
        done = site.ended(api.post("/v1/nodes/n1/clean"))
    assert (done["state"], done["verb"]) == ("succeeded", "node.clean")
    assert node(api)["state"] == "available"
    site.ended(provision(api))
    assert api.post("/v1/nodes/n1/clean").json()["code"] == "in-use"


def test_a_node_whose_disk_moved_away_is_wiped(api: TestClient, site: Any, parts: Parts) -> None:
    assert site.ended(provision(api))["state"] == "succeeded"
    disk = node(api)["disk"]
    moved = site.ended(api.post(f"/v1/disks/{disk}/move?project=red", json={"to": "n2", "until": "power"}))
    assert moved["state"] == "succeeded", moved
    assert (node(api)["state"], node(api, "n2")["state"]) == ("cleaning", "active")
    assert cleaned(api, parts)["state"] == "succeeded"
    assert node(api)["state"] == "available"


def test_a_provision_that_was_cancelled_after_the_node_ran_is_wiped(
    api: TestClient, site: Any, parts: Parts
) -> None:
    begun = provision(api, until="up").json()
    wait_until(
        lambda: any(
            step["name"] == "watch" for step in api.get(f"/v1/operations/{begun['id']}").json()["steps"]
        ),
        deadline=20,
        what="the boot",
        next_step="",
    )
    api.post(f"/v1/operations/{begun['id']}/cancel")
    assert api.get(f"/v1/operations/{begun['id']}", params={"wait": 30}).json()["state"] == "cancelled"
    assert node(api)["state"] == "cleaning"
    assert cleaned(api, parts)["state"] == "succeeded"


def test_cleaning_that_is_cancelled_leaves_the_node_failed(api: TestClient, site: Any, parts: Parts) -> None:
    give_back(api, site)
    clean_what_waits(parts)
    with parts.db.read() as session:
        id = session.scalars(select(Operation.id).where(Operation.verb == "node.clean")).one()
    api.post(f"/v1/operations/{id}/cancel")
    assert last(api, parts)["state"] == "cancelled"
    assert node(api)["state"] == "failed"
    assert left(api) == NOTHING
