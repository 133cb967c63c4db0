"""What the API shows and refuses to whom."""

from typing import Any

import pytest
from fastapi.testclient import TestClient


@pytest.fixture
def tenant(api: TestClient, site: Any) -> TestClient:
    """The API as a member of project red sees it; blue has a node, a network and a disk."""
    for number, project in enumerate(("red", "blue"), start=1):
        site.project(project)
        site.network("net", project)
        site.node(f"n{number}", number)
    site.image("golden")
    for number, project in enumerate(("red", "blue"), start=1):
        site.ended(
            api.post(
                f"/v1/nodes/n{number}/provision",
                json={"image": "golden", "network": "net", "project": project, "until": "power"},
            )
        )
    made = api.post("/v1/tokens", json={"name": "robot", "role": "member", "project": "red"}).json()
    return TestClient(api.app, headers={"Authorization": f"Bearer {made['secret']}"})


def test_without_a_token_nothing_but_the_version_answers(api: TestClient) -> None:
    stranger = TestClient(api.app)
    assert stranger.get("/v1/version").status_code == 200
    for path in ("/v1/whoami", "/v1/nodes", "/v1/images", "/v1/operations", "/v1/doctor"):
        answer = stranger.get(path)
        assert answer.status_code == 401
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_revoked_token_stops_working(api: TestClient, tenant: TestClient) -> None:
    assert tenant.get("/v1/whoami").json() == {
        "name": "robot",
        "admin": False,
        "roles": {"red": "member"},
        "user": None,
        "expires_at": None,
    }
    assert api.delete("/v1/tokens/robot").status_code == 204
    assert tenant.get("/v1/whoami").status_code == 401


def test_a_tenant_sees_his_own_things_only(tenant: TestClient) -> None:
    assert [item["name"] for item in tenant.get("/v1/projects").json()["items"]] == ["red"]
    assert [item["name"] for item in tenant.get("/v1/nodes").json()["items"]] == ["n1"]
    assert {item["project"] for item in tenant.get("/v1/networks").json()["items"]} == {"red"}
    assert {item["project"] for item in tenant.get("/v1/disks").json()["items"]} == {"red"}
    assert {item["project"] for item in tenant.get("/v1/operations").json()["items"]} == {"red"}
    assert [item["name"] for item in tenant.get("/v1/images").json()["items"]] == ["golden"]


def test_foreign_things_do_not_exist_for_a_tenant(api: TestClient, tenant: TestClient) -> None:
    network = api.get("/v1/networks/net?project=blue").json()["id"]
    disk = api.get("/v1/disks?project=blue").json()["items"][0]["id"]
    operation = api.get("/v1/operations?project=blue").json()["items"][0]["id"]
    for method, path, body in (
        ("GET", "/v1/nodes/n2", None),
        ("GET", "/v1/nodes/n2/events", None),
        ("POST", "/v1/nodes/n2/deprovision", {}),
        ("POST", "/v1/nodes/n2/power", {"action": "off"}),
        ("GET", f"/v1/networks/{network}", None),
        ("DELETE", f"/v1/disks/{disk}", None),
        ("POST", f"/v1/disks/{disk}/snapshot", {"name": "stolen"}),
        ("POST", f"/v1/disks/{disk}/flatten", None),
        ("POST", f"/v1/disks/{disk}/rollback", {}),
        ("POST", f"/v1/disks/{disk}/grow", {"size": 1 << 30}),
        ("POST", f"/v1/disks/{disk}/move", {"to": "n1"}),
        ("GET", f"/v1/operations/{operation}", None),
        ("POST", f"/v1/operations/{operation}/cancel", None),
        ("GET", "/v1/projects/blue", None),
    ):
        answer = tenant.request(method, path, json=body)
        assert answer.status_code == 404, (method, path, answer.text)


def test_a_member_may_not_do_what_a_manager_or_admin_does(tenant: TestClient) -> None:
    for method, path, body in (
        ("POST", "/v1/networks", {"name": "second"}),
        ("POST", "/v1/tokens", {"name": "t2", "role": "member"}),
        ("POST", "/v1/projects", {"name": "mine"}),
        ("POST", "/v1/images/build", {"name": "own"}),
        ("POST", "/v1/images/adopt", {"name": "own", "source": "theirs"}),
        ("POST", "/v1/disks/adopt", {"name": "own", "source": "theirs"}),
        ("POST", "/v1/images/golden/flatten", None),
        ("POST", "/v1/images/golden/edit", {"node": "n1", "network": "net"}),
        ("GET", "/v1/doctor", None),
        ("POST", "/v1/doctor/repair", {}),
    ):
        answer = tenant.request(method, path, json=body)
        assert answer.status_code in (403, 404), (method, path, answer.text)


def test_a_tenant_does_not_see_how_bmcs_are_reached(api: TestClient, tenant: TestClient) -> None:
    assert tenant.get("/v1/nodes/n1").json()["bmc"] is None
    assert api.get("/v1/nodes/n1").json()["bmc"]["address"] == "bmc-n1"


def test_a_project_that_owns_things_stays(api: TestClient, tenant: TestClient) -> None:
    answer = api.delete("/v1/projects/red")
    assert answer.status_code == 409
    assert "still owns" in answer.json()["detail"]


def test_names_are_taken_once(api: TestClient, site: Any) -> None:
    site.project("red")
    answer = api.post("/v1/projects", json={"name": "red"})
    assert answer.status_code == 409
    assert answer.json()["detail"] == "project red exists already"
