"""Networks that are private, shared and public: who sees them, attaches nodes, and is in the way of ending that."""

from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.switch import PortVlans
from bmi.parts import Parts
from tests.unit.images.conftest import Tenants, tenants

__all__ = ["tenants"]


@pytest.fixture(autouse=True)
def furnished(tenants: Tenants) -> None:
    for project in ("red", "blue"):
        tenants.site.network("net", project)
        tenants.ids[f"{project}-storage"] = tenants.site.network("storage", project)["id"]
    for number in (1, 2):
        tenants.site.node(f"n{number}", number)


def boot(api: TestClient, project: str, node: str, *beside: str, network: str = "net") -> Any:
    body = {"image": "golden", "network": network, "project": project, "until": "power"}
    attachments = [{"network": name, "tagged": True} for name in beside]
    return api.post(f"/v1/nodes/{node}/provision", json={**body, "attachments": attachments})


def share(tenants: Tenants, who: str = "red-manager", other: str = "blue", network: str = "storage") -> Any:
    return tenants[who].put(f"/v1/networks/{network}/shares/{tenants.ids[other]}")


def seen(tenants: Tenants, who: str) -> set[str]:
    return {f"{row['project']}:{row['name']}" for row in tenants[who].get("/v1/networks").json()["items"]}


def test_a_private_network_is_seen_and_used_by_its_project_alone(tenants: Tenants) -> None:
    assert seen(tenants, "blue-viewer") == {"blue:net", "blue:storage"}
    for name in ("red:storage", tenants.ids["red-storage"]):
        assert tenants["blue-manager"].get(f"/v1/networks/{name}").status_code == 404
        assert boot(tenants["blue-member"], "blue", "n1", name).status_code == 404
        # Not in an admin's hands either: nothing but its owner's word makes tenants meet.
        assert boot(tenants.admin, "blue", "n1", name).status_code == 404


def test_managers_share_with_a_project_by_its_id(tenants: Tenants) -> None:
    assert share(tenants, "red-member").status_code == 403
    assert share(tenants, "blue-manager", "red", "red:storage").status_code == 404
    assert tenants["red-manager"].put("/v1/networks/storage/shares/blue").status_code == 404
    assert share(tenants, other="red").status_code == 400
    shared = share(tenants)
    assert (shared.status_code, shared.json()["project"]) == (200, "blue")
    assert share(tenants).status_code == 200
    assert tenants["red-viewer"].get("/v1/networks/storage").json()["visibility"] == "shared"
    shares = tenants["red-viewer"].get("/v1/networks/storage/shares").json()["items"]
    assert [row["project"] for row in shares] == ["blue"]
    assert seen(tenants, "blue-viewer") == {"blue:net", "blue:storage", "red:storage"}
    assert tenants["blue-viewer"].get("/v1/networks/red:storage/shares").status_code == 404
    # A bare name stays the own one's.
    assert tenants["blue-viewer"].get("/v1/networks/storage").json()["project"] == "blue"


def test_who_it_is_shared_with_attaches_nodes_and_changes_nothing(tenants: Tenants, parts: Parts) -> None:
    share(tenants)
    tenants.done(boot(tenants["blue-member"], "blue", "n1", "red:storage"))
    tenants.done(boot(tenants["red-member"], "red", "n2", "storage"))
    vlans = {
        f"{row['project']}:{row['name']}": row["vlan"]
        for row in tenants.admin.get("/v1/networks").json()["items"]
    }
    carried = [parts.switches["sw1"].port(f"port{number}").vlans for number in (1, 2)]
    assert carried == [
        PortVlans(vlans["blue:net"], frozenset({vlans["red:storage"]})),
        PortVlans(vlans["red:net"], frozenset({vlans["red:storage"]})),
    ]
    (there,) = [
        row for row in tenants["blue-viewer"].get("/v1/nodes/n1").json()["attachments"] if not row["boot"]
    ]
    assert (there["network"], there["network_project"]) == ("storage", "red")
    for refused in (
        tenants["blue-manager"].delete("/v1/networks/red:storage"),
        tenants["blue-manager"].put("/v1/networks/red:storage/shares/x"),
        tenants["blue-manager"].delete("/v1/networks/red:storage/public"),
    ):
        assert refused.status_code == 403, refused.text


def test_nobody_boots_on_a_network_of_another_project(tenants: Tenants) -> None:
    share(tenants)
    for who in ("blue-member", "admin"):
        refused = boot(tenants[who], "blue", "n1", network="red:storage")
        assert refused.status_code == 403, refused.text
        assert "boot on networks of their own project" in refused.json()["detail"]
    # Nor when the body names no project, where the network's would be meant.
    body = {"image": "golden", "network": "red:storage", "until": "power"}
    assert tenants["blue-member"].post("/v1/nodes/n1/provision", json=body).status_code == 403


def test_what_nodes_boot_on_is_private_and_stays_so(tenants: Tenants) -> None:
    share(tenants)
    refused = boot(tenants["red-member"], "red", "n1", network="storage")
    assert refused.status_code == 409
    assert "is shared" in refused.json()["detail"]
    tenants.done(boot(tenants["red-member"], "red", "n1"))
    for refused in (share(tenants, network="net"), tenants.admin.put("/v1/networks/red:net/public")):
        assert refused.status_code == 409
        assert "node n1" in refused.json()["detail"]
    tenants.done(tenants["red-member"].post("/v1/nodes/n1/deprovision", json={}))
    assert share(tenants, network="net").status_code == 200


def test_sharing_does_not_end_while_a_node_is_there_and_says_whose(tenants: Tenants) -> None:
    share(tenants)
    tenants.done(boot(tenants["blue-member"], "blue", "n1", "red:storage"))
    unshare = f"/v1/networks/storage/shares/{tenants.ids['blue']}"
    for refused in (
        tenants["red-manager"].delete(unshare),
        tenants["red-manager"].delete("/v1/networks/storage"),
    ):
        assert refused.status_code == 409
        assert "node n1 of project blue" in refused.json()["detail"]
    tenants.done(tenants["blue-member"].post("/v1/nodes/n1/detach", json={"network": "red:storage"}))
    assert tenants["red-manager"].delete(unshare).status_code == 204
    assert tenants["red-manager"].delete(unshare).status_code == 404
    assert tenants["red-viewer"].get("/v1/networks/storage").json()["visibility"] == "private"
    attach = {"network": "red:storage", "tagged": True}
    assert tenants["blue-member"].post("/v1/nodes/n1/attach", json=attach).status_code == 404
    assert seen(tenants, "blue-viewer") == {"blue:net", "blue:storage"}


def test_admins_publish_and_what_is_public_is_taken_back_when_nobody_is_there(tenants: Tenants) -> None:
    public = "/v1/networks/red:storage/public"
    assert tenants["red-manager"].put("/v1/networks/storage/public").status_code == 403
    assert tenants.admin.put(public).json()["visibility"] == "public"
    assert "red:storage" in seen(tenants, "blue-viewer")
    tenants.done(boot(tenants["blue-member"], "blue", "n1"))
    attach = {"network": "red:storage", "tagged": True}
    tenants.done(tenants["blue-member"].post("/v1/nodes/n1/attach", json=attach))
    refused = tenants["red-manager"].delete("/v1/networks/storage/public")
    assert (refused.status_code, "node n1 of project blue" in refused.json()["detail"]) == (409, True)
    # With whom it is shared besides, he stays.
    share(tenants)
    assert tenants["red-manager"].delete("/v1/networks/storage/public").json()["visibility"] == "shared"
    tenants.done(tenants["blue-member"].post("/v1/nodes/n1/deprovision", json={}))
    assert (
        tenants["red-manager"].delete(f"/v1/networks/storage/shares/{tenants.ids['blue']}").status_code == 204
    )


def test_a_network_is_private_again_when_whom_it_was_shared_with_is_gone(tenants: Tenants) -> None:
    tenants.site.project("green")
    tenants.ids["green"] = tenants.admin.get("/v1/projects/green").json()["id"]
    share(tenants, other="green")
    assert tenants.admin.delete("/v1/projects/green").status_code == 204
    assert tenants["red-viewer"].get("/v1/networks/storage/shares").json()["items"] == []
    assert tenants["red-manager"].delete("/v1/networks/storage/public").json()["visibility"] == "private"


def test_who_belongs_to_two_projects_brings_no_private_network_into_the_other(tenants: Tenants) -> None:
    tenants.admin.post("/v1/users", json={"name": "ann", "password": "long enough to be one"})
    for project in ("red", "blue"):
        tenants.admin.put(f"/v1/projects/{project}/members/ann", json={"role": "manager"})
    secret = (
        TestClient(tenants.admin.app)
        .post("/v1/login", json={"name": "ann", "password": "long enough to be one"})
        .json()["secret"]
    )
    ann = TestClient(tenants.admin.app, headers={"Authorization": f"Bearer {secret}"})
    assert boot(ann, "blue", "n1", "red:storage").status_code == 404
    tenants.done(boot(ann, "blue", "n1"))
    attach = {"network": tenants.ids["red-storage"], "tagged": True}
    assert ann.post("/v1/nodes/n1/attach", json=attach).status_code == 404
