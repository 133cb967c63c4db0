"""What happens only after the operation that asked for it has given up."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.power import Bmc, PowerState
from bmi.drivers.storage import Kind, Volume
from bmi.errors import StorageError
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.provisioning import late
from bmi.provisioning.converge import converge
from bmi.wait import wait_until
from tests.unit.provisioning.test_provision import NOTHING, left, node, provision, red

__all__ = ["red"]


def refused(*_: object) -> None:
    raise StorageError("the store does not answer", next_step="wait")


def test_a_clone_that_was_made_late_is_removed(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    golden = api.get("/v1/images/golden").json()["id"]
    with monkeypatch.context() as broken:
        broken.setattr(parts.storage, "clone", refused)
        failed = site.ended(provision(api))
    assert failed["ending"] == "undone"
    given_up = next(iter(_ended(parts)))
    parts.storage.clone(golden, given_up)
    assert left(api)["disks"] == 1

    converge(parts)

    assert left(api) == NOTHING


def test_a_volume_that_nothing_accounts_for_stays(api: TestClient, site: Any, parts: Parts) -> None:
    golden = api.get("/v1/images/golden").json()["id"]
    strange = new_id()
    parts.storage.clone(golden, strange)
    site.ended(provision(api))
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    converge(parts)
    assert parts.storage.find(Volume(Kind.DISK, strange)) is not None


def test_what_is_in_use_or_kept_stays(api: TestClient, site: Any, parts: Parts) -> None:
    site.ended(provision(api))
    site.ended(api.post("/v1/nodes/n1/deprovision", json={"keep_disk": True}))
    site.ended(provision(api, node="n2"))
    before = left(api)
    converge(parts)
    assert left(api) == before
    assert parts.powers["memory"].state(Bmc("bmc-n2", "u", "secret")) is PowerState.ON


def test_a_node_that_is_switched_on_late_is_switched_off(api: TestClient, site: Any, parts: Parts) -> None:
    site.ended(provision(api))
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    bmc = Bmc("bmc-n1", "u", "secret")
    parts.powers["memory"].on(bmc)

    converge(parts)

    wait_until(
        lambda: parts.powers["memory"].state(bmc) is PowerState.OFF,
        deadline=20,
        what="power off",
        next_step="-",
    )
    wait_until(lambda: node(api)["state"] == "available", deadline=20, what="the reset", next_step="-")
    assert any(event["kind"] == "power.late" for event in api.get("/v1/nodes/n1/events").json()["items"])


def test_a_node_that_somebody_switches_on_by_hand_much_later_is_left_alone(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ended(provision(api))
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    monkeypatch.setattr(late, "LATE", late.LATE * 0)
    bmc = Bmc("bmc-n1", "u", "secret")
    parts.powers["memory"].on(bmc)
    converge(parts)
    assert parts.powers["memory"].state(bmc) is PowerState.ON


def _ended(parts: Parts) -> list[Any]:
    from sqlalchemy import select

    from bmi.provisioning.models import Operation

    with parts.db.read() as session:
        query = select(Operation.disk_id).where(Operation.verb == "node.provision")
        return list(session.scalars(query))
