"""After a failure: trying again, cancelling anything, and resetting a node whatever its record says."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.api.nodes import NodeState
from bmi.boot.models import Boot
from bmi.drivers.power import Bmc, PowerState
from bmi.drivers.storage import Volume
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.errors import BmcUnreachable, StorageError
from bmi.images.models import Disk, Image
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.provisioning import engine
from bmi.wait import wait_until
from tests.unit.provisioning.test_provision import NOTHING, left, node, provision, red

__all__ = ["red"]

BMC = Bmc("bmc-n1", "u", "secret")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FIRST_PAUSE", 0.01)


def retry(api: TestClient, operation: dict[str, Any]) -> Any:
    return api.post(f"/v1/operations/{operation['id']}/retry")


def broken(*_: object) -> None:
    raise StorageError("the store is broken", next_step="mend it")


def unreachable(bmc: Bmc) -> None:
    raise BmcUnreachable(f"BMC {bmc.address} does not answer", next_step="check its cable")


def test_what_was_undone_is_done_anew(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken_store:
        broken_store.setattr(parts.storage, "write_seed", broken)
        failed = site.ended(provision(api, hostname="web"))
    assert failed["ending"] == "undone"

    again = site.ended(retry(api, failed))

    assert (again["state"], again["retry_of"]) == ("succeeded", failed["id"])
    assert node(api)["state"] == "active"
    with parts.db.read() as session:
        assert session.query(Boot).one().hostname == "web"


def test_what_stands_is_used_by_the_second_try(api: TestClient, site: Any) -> None:
    failed = site.ended(provision(api, until="dhcp", deadline=0.1))
    assert (failed["state"], failed["ending"], node(api)["state"]) == ("failed", "standing", "failed")
    assert f"bmi op retry {failed['id']}" in node(api)["problem"]
    disk = node(api)["disk"]

    again = site.ended(retry(api, failed))

    assert again["ending"] == "standing"
    assert node(api)["disk"] == disk
    assert site.ended(retry(api, again))["retry_of"] == again["id"]
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert left(api) == NOTHING


@pytest.mark.parametrize("way", ["retry", "deprovision", "reset"])
def test_a_provision_that_could_not_be_undone_has_ways_on(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    with monkeypatch.context() as broken_parts:
        broken_parts.setattr(parts.powers["memory"], "on", unreachable)
        broken_parts.setattr(parts.storage, "remove", broken)
        stuck = site.ended(provision(api))
    assert (stuck["state"], stuck["ending"], node(api)["state"]) == ("failed", "stuck", "failed")

    if way == "retry":
        assert site.ended(retry(api, stuck))["state"] == "succeeded"
        assert node(api)["state"] == "active"
        way = "deprovision"
    assert site.ended(api.post(f"/v1/nodes/n1/{way}", json={}))["state"] == "succeeded"
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING


def test_a_deprovision_that_failed_goes_on(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ended(provision(api))
    with monkeypatch.context() as broken_store:
        broken_store.setattr(parts.storage, "remove", broken)
        failed = site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert (failed["ending"], node(api)["state"]) == ("standing", "failed")

    assert site.ended(retry(api, failed))["state"] == "succeeded"
    assert left(api) == NOTHING


@pytest.mark.parametrize("verb", ["create", "snapshot"])
def test_half_a_disk_or_image_that_could_not_be_undone_can_be_finished_or_removed(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    body = {"name": "d", "image": "golden", "project": "red"}
    if verb == "snapshot":
        site.ended(api.post("/v1/disks", json=body))
    with monkeypatch.context() as broken_store:
        broken_store.setattr(parts.storage, "clone" if verb == "create" else "snapshot", broken)
        broken_store.setattr(parts.storage, "remove", broken)
        if verb == "create":
            asked = api.post("/v1/disks", json=body)
        else:
            asked = api.post("/v1/disks/d/snapshot?project=red", json={"name": "shot"})
        stuck = site.ended(asked)
    assert stuck["ending"] == "stuck"
    thing = "/v1/disks/d?project=red" if verb == "create" else "/v1/images/shot?project=red"
    assert api.get(thing).json()["state"] == "creating"

    assert site.ended(retry(api, stuck))["state"] == "succeeded"
    assert api.get(thing).json()["state"] == "ready"
    gone = api.delete(thing) if verb == "create" else api.post("/v1/images/shot/purge?project=red")
    assert site.ended(gone)["state"] == "succeeded"
    assert api.get(thing).status_code == 404


def test_half_a_disk_can_be_removed(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken_store:
        broken_store.setattr(parts.storage, "clone", broken)
        broken_store.setattr(parts.storage, "remove", broken)
        site.ended(api.post("/v1/disks", json={"name": "d", "image": "golden", "project": "red"}))
    assert site.ended(api.delete("/v1/disks/d?project=red"))["state"] == "succeeded"
    assert api.get("/v1/disks?project=red").json()["items"] == []


def test_what_succeeded_or_runs_is_not_tried_again(api: TestClient, site: Any) -> None:
    running = provision(api, until="dhcp")
    answer = retry(api, running.json())
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong-state")
    api.post(f"/v1/operations/{running.json()['id']}/cancel")
    site.ended(running)
    done = site.ended(provision(api))
    answer = retry(api, done)
    assert (answer.status_code, answer.json()["next_step"]) == (409, "nothing to try again")


def test_a_second_retry_at_the_same_time_is_refused(api: TestClient, site: Any) -> None:
    failed = site.ended(provision(api, until="dhcp", deadline=0.1))
    first = retry(api, failed)
    second = retry(api, failed)
    assert (second.status_code, second.json()["code"]) == (409, "in-use")
    site.ended(first)


def test_a_node_that_came_up_late_is_not_provisioned_again(api: TestClient, site: Any, parts: Parts) -> None:
    failed = site.ended(provision(api, until="dhcp", deadline=0.1))
    with parts.db.write() as session:
        session.query(Node).filter_by(name="n1").one().state = NodeState.ACTIVE
    answer = retry(api, failed)
    assert answer.status_code == 409
    assert "node n1 is active" in answer.json()["detail"]
    assert node(api)["state"] == "active"


def test_a_cancelled_deprovision_stays_where_it_is_and_goes_on(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ended(provision(api))
    asked: list[Any] = []

    def cancelling(volume: Volume) -> None:
        if not asked:
            asked.append(api.post(f"/v1/operations/{running['id']}/cancel"))
        raise unavailable

    unavailable = BmcUnreachable("passes later", next_step="wait")
    with monkeypatch.context() as broken_store:
        broken_store.setattr(parts.storage, "remove", cancelling)
        answer = api.post("/v1/nodes/n1/deprovision", json={})
        running = answer.json()
        ended = site.ended(answer)
    assert asked[0].status_code == 202
    assert (ended["state"], ended["ending"]) == ("cancelled", "standing")
    assert node(api)["state"] == "failed"
    assert site.ended(retry(api, ended))["state"] == "succeeded"
    assert left(api) == NOTHING


# --- reset -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(NodeState))
@pytest.mark.parametrize("booted", [True, False])
def test_reset_makes_a_node_available_whatever_its_record_says(
    api: TestClient, site: Any, parts: Parts, state: NodeState, booted: bool
) -> None:
    if booted:
        site.ended(provision(api))
    parts.switches["sw1"].configure("port1", PortVlans(native=77))
    parts.powers["memory"].on(BMC)
    with parts.db.write() as session:
        session.query(Node).filter_by(name="n1").one().state = state

    ended = site.ended(api.post("/v1/nodes/n1/reset", json={}))

    assert ended["state"] == "succeeded", ended
    found = node(api)
    assert (found["state"], found["project"], found["disk"], found["problem"]) == (
        "available",
        None,
        None,
        None,
    )
    assert left(api) == NOTHING | {"disks": 1 if booted else 0}
    assert parts.switches["sw1"].port("port1").vlans == ISOLATED
    assert parts.powers["memory"].state(BMC) is PowerState.OFF
    assert site.ended(provision(api))["state"] == "succeeded"


def test_reset_removes_the_disk_if_asked(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    site.ended(api.post("/v1/nodes/n1/reset", json={"remove_disk": True}))
    assert left(api) == NOTHING
    assert api.get("/v1/disks?project=red").json()["items"] == []


def test_a_node_with_a_dead_bmc_is_reset_once_somebody_says_that_it_is_off(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ended(provision(api))
    monkeypatch.setattr(parts.powers["memory"], "off", unreachable)
    failed = site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert failed["ending"] == "standing"
    assert "bmi node reset n1 --assume-off" in node(api)["problem"]

    ended = site.ended(api.post("/v1/nodes/n1/reset", json={"assume_off": True, "remove_disk": True}))

    assert ended["state"] == "succeeded"
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING


def test_reset_waits_for_the_operation_that_runs(api: TestClient, site: Any) -> None:
    running = provision(api, until="dhcp")
    answer = api.post("/v1/nodes/n1/reset", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "in-use")
    assert f"bmi op cancel {running.json()['id']}" in answer.json()["next_step"]
    api.post(f"/v1/operations/{running.json()['id']}/cancel")
    site.ended(running)


# --- processes that end ----------------------------------------------------------------------------------


def test_an_operation_that_cannot_be_settled_ends_all_the_same(
    api: TestClient, site: Any, parts: Parts
) -> None:
    with parts.db.read() as session:
        image = session.query(Image).one().id
    answer = provision(api, until="dhcp", deadline=0.5)
    wait_until(
        lambda: node(api)["operation"] and api.get("/v1/disks?project=red").json()["items"],
        deadline=10,
        what="the disk",
        next_step="-",
    )
    with parts.db.write() as session:
        session.query(Node).filter_by(
            name="n1"
        ).one().state = NodeState.AVAILABLE  # no way leads on from there
    ended = site.ended(answer)
    assert (ended["state"], ended["ending"]) == ("failed", "stuck")
    assert site.ended(api.post("/v1/nodes/n1/reset", json={"remove_disk": True}))["state"] == "succeeded"
    assert left(api) == NOTHING
    with parts.db.read() as session:
        assert session.get(Image, image) is not None
        assert session.query(Disk).count() == 0
