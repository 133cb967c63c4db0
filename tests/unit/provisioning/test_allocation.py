"""Nodes that belong to a project without being booted: who may take, boot and give back."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.power import Bmc, PowerState
from bmi.nodes.models import Node
from bmi.parts import Parts
from bmi.provisioning import engine
from bmi.provisioning.late import end_late
from tests.unit.images.conftest import Tenants, tenants
from tests.unit.provisioning.test_provision import is_reset, tamper

__all__ = ["tenants"]


@pytest.fixture(autouse=True)
def furnished(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FIRST_PAUSE", 0.01)
    for project in ("red", "blue"):
        tenants.site.network("net", project)
    for number in (1, 2, 3):
        tenants.site.node(f"n{number}", number)


def state(tenants: Tenants, node: str = "n1") -> tuple[str, str | None, bool]:
    found = tenants.admin.get(f"/v1/nodes/{node}").json()
    return found["state"], found["project"], found["allocated"]


def boot(api: TestClient, project: str, node: str = "n1") -> Any:
    body = {"image": "golden", "network": "net", "project": project, "until": "power"}
    return api.post(f"/v1/nodes/{node}/provision", json=body)


def test_a_member_takes_a_free_node_and_only_his_project_boots_it(tenants: Tenants) -> None:
    taken = tenants["red-member"].post("/v1/nodes/n1/allocate", json={})
    assert taken.status_code == 200, taken.text
    assert state(tenants) == ("allocated", "red", True)
    assert tenants["blue-member"].get("/v1/nodes/n1").status_code == 404
    assert boot(tenants["blue-member"], "blue").status_code == 404
    assert boot(tenants.admin, "blue").status_code == 409
    assert tenants["blue-member"].post("/v1/nodes/n1/allocate", json={}).status_code == 404
    assert tenants.admin.post("/v1/nodes/n1/allocate", json={"project": "blue"}).status_code == 409
    assert tenants["red-viewer"].post("/v1/nodes/n2/allocate", json={}).status_code == 403

    tenants.done(boot(tenants["red-member"], "red"))
    assert state(tenants) == ("active", "red", True)
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/deprovision", json={}))
    assert state(tenants) == ("allocated", "red", True)


def test_a_member_takes_nodes_for_no_other_project(tenants: Tenants) -> None:
    answer = tenants["red-member"].post("/v1/nodes/n1/allocate", json={"project": "blue"})
    assert answer.status_code == 404
    assert state(tenants) == ("available", None, False)
    assert tenants.admin.post("/v1/nodes/n1/allocate", json={"project": "blue"}).status_code == 200
    assert state(tenants) == ("allocated", "blue", True)


def test_releasing_gives_a_clean_node_back(tenants: Tenants, parts: Parts) -> None:
    tenants["red-member"].post("/v1/nodes/n1/allocate", json={})
    tamper(parts)
    assert tenants["blue-member"].post("/v1/nodes/n1/release").status_code == 404
    ended = tenants.done(tenants["red-member"].post("/v1/nodes/n1/release"))
    assert [step["name"] for step in ended["steps"]] == ["power off", "network", "boot settings"]
    assert state(tenants) == ("available", None, False)
    assert is_reset(parts)
    assert tenants["red-member"].post("/v1/nodes/n1/release").status_code == 409


def test_what_boots_is_deprovisioned_before_it_is_released(tenants: Tenants) -> None:
    tenants.done(boot(tenants["red-member"], "red"))
    assert tenants["red-member"].post("/v1/nodes/n1/release").status_code == 409
    assert tenants["red-member"].post("/v1/nodes/n1/allocate", json={}).status_code == 200
    assert state(tenants) == ("active", "red", True)
    refused = tenants["red-member"].post("/v1/nodes/n1/release")
    assert "deprovision n1" in refused.json()["next_step"]
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/deprovision", json={}))
    assert state(tenants) == ("allocated", "red", True)
    assert tenants["red-member"].post("/v1/nodes/n1/deprovision", json={}).status_code == 409


def test_a_node_that_was_not_allocated_is_free_after_it_is_deprovisioned(tenants: Tenants) -> None:
    tenants.done(boot(tenants["red-member"], "red"))
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/deprovision", json={}))
    assert state(tenants) == ("available", None, False)


def test_disks_are_wiped_when_a_node_leaves_its_project_and_not_before(
    tenants: Tenants, parts: Parts
) -> None:
    tenants["red-member"].post("/v1/nodes/n1/allocate", json={})
    tenants.done(boot(tenants["red-member"], "red"))
    with parts.db.write() as session:
        session.query(Node).filter_by(name="n1").one().dirty = True
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/deprovision", json={}))
    assert state(tenants) == ("allocated", "red", True)
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/release"))
    assert state(tenants)[:2] == ("cleaning", None)


def test_a_reset_keeps_the_project_unless_it_is_told_not_to(tenants: Tenants) -> None:
    tenants["red-member"].post("/v1/nodes/n1/allocate", json={})
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/reset", json={}))
    assert state(tenants) == ("allocated", "red", True)
    tenants.done(tenants.admin.post("/v1/nodes/n1/reset", json={"assume_off": True, "release": True}))
    assert state(tenants) == ("available", None, False)


def test_an_allocated_node_is_in_use_for_the_inventory_and_off(tenants: Tenants, parts: Parts) -> None:
    tenants["red-member"].post("/v1/nodes/n1/allocate", json={})
    refused = tenants.admin.delete("/v1/nodes/n1")
    assert refused.status_code == 409
    assert "release n1" in refused.json()["next_step"]
    assert tenants["red-member"].post("/v1/nodes/n1/power", json={"action": "on"}).status_code == 409
    assert tenants.admin.delete("/v1/projects/red").status_code == 409

    # Power that comes late is switched off, and the node stays its project's.
    tenants.done(boot(tenants["red-member"], "red"))
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/deprovision", json={}))
    parts.powers["memory"].on(Bmc("bmc-n1", "u", "secret"))
    found = tenants.admin.get("/v1/doctor?quick=true").json()["findings"]
    assert [one["code"] for one in found] == ["node-on-while-free"]
    end_late(parts)
    (last,) = tenants.admin.get("/v1/operations", params={"limit": 200}).json()["items"][-1:]
    tenants.admin.get(f"/v1/operations/{last['id']}", params={"wait": 30})
    assert parts.powers["memory"].state(Bmc("bmc-n1", "u", "secret")) is PowerState.OFF
    assert state(tenants) == ("allocated", "red", True)


def test_the_quota_of_nodes_counts_booted_and_allocated_ones(tenants: Tenants) -> None:
    assert tenants.admin.patch("/v1/projects/red/quota", json={"nodes": 2}).status_code == 200
    member = tenants["red-member"]
    assert member.post("/v1/nodes/n1/allocate", json={}).status_code == 200
    tenants.done(boot(member, "red", "n2"))
    for refused in (member.post("/v1/nodes/n3/allocate", json={}), boot(member, "red", "n3")):
        assert refused.status_code == 409
        assert "may own 2 nodes and owns 2" in refused.json()["detail"]
    assert state(tenants, "n3") == ("available", None, False)
    # What it has already is no more than before.
    tenants.done(boot(member, "red", "n1"))
    assert tenants.admin.get("/v1/projects/red").json()["use"]["nodes"] == 2
    tenants.done(member.post("/v1/nodes/n2/deprovision", json={}))
    assert member.post("/v1/nodes/n3/allocate", json={}).status_code == 200
