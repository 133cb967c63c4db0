"""Operations over HTTP: paging, waiting, following, claims."""

import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.parts import Parts


@pytest.fixture(autouse=True)
def red(site: Any) -> None:
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)


def provision(api: TestClient, **more: Any) -> Any:
    body = {"image": "golden", "network": "net", "project": "red", "until": "power", **more}
    return api.post("/v1/nodes/n1/provision", json=body)


def test_following_an_operation_ends_with_its_end(api: TestClient) -> None:
    answer = provision(api)
    with api.stream("GET", answer.headers["Location"] + "/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = list(stream.iter_lines())
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert told[-1]["state"] == "succeeded"
    assert all(entry["id"] == answer.json()["id"] for entry in told)


def test_waiting_returns_at_the_deadline_with_what_there_is(api: TestClient) -> None:
    answer = provision(api, until="up")
    found = api.get(answer.headers["Location"], params={"wait": 0.3}).json()
    assert found["state"] == "running"
    api.post(f"{answer.headers['Location']}/cancel")


def test_lists_are_paged(api: TestClient, site: Any) -> None:
    for number in range(5):
        site.ended(api.post("/v1/disks", json={"name": f"d{number}", "image": "golden", "project": "red"}))
    names: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        found = api.get("/v1/disks", params={"limit": 2, **cursor}).json()
        assert len(found["items"]) <= 2
        names += [item["name"] for item in found["items"]]
        if found["next"] is None:
            break
        cursor = {"cursor": found["next"]}
    assert names == [f"d{number}" for number in range(5)]


def test_one_operation_at_a_time_runs_on_a_node(api: TestClient, site: Any) -> None:
    first = provision(api, until="up")
    for answer in (provision(api), api.post("/v1/nodes/n1/deprovision", json={})):
        assert answer.status_code == 409
        assert "node n1 is busy" in answer.json()["detail"] or "in use" in answer.json()["detail"]
    api.post(f"{first.headers['Location']}/cancel")
    assert site.ended(first)["state"] == "cancelled"


def test_a_disk_that_boots_a_node_is_not_removed(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    disk = api.get("/v1/nodes/n1").json()["disk"]
    answer = api.delete(f"/v1/disks/{disk}?project=red")
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"disk {disk} is exported to node n1"
    assert "--keep-disk" in answer.json()["next_step"]


def test_a_snapshot_of_a_running_nodes_disk_boots_and_outlives_it(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    disk = api.get("/v1/nodes/n1").json()["disk"]
    taken = site.ended(api.post(f"/v1/disks/{disk}/snapshot?project=red", json={"name": "shot"}))
    assert taken["result"]["image"] == "shot"
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    site.ended(api.post("/v1/images/golden/purge"))
    assert site.ended(provision(api, image="shot"))["state"] == "succeeded"


def test_a_network_with_nodes_on_it_stays(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    answer = api.delete("/v1/networks/net?project=red")
    assert answer.status_code == 409
    assert answer.json()["detail"] == "attached to network net: node n1"


def test_networks_get_vlans_and_subnets_of_their_own(api: TestClient, site: Any, parts: Parts) -> None:
    site.network("second", "red")
    one, two = api.get("/v1/networks?project=red").json()["items"]
    assert one["vlan"] != two["vlan"]
    assert one["subnet"] != two["subnet"]
    taken = api.post("/v1/networks", json={"name": "third", "project": "red", "vlan": one["vlan"]})
    assert taken.status_code == 409
    overlapping = api.post("/v1/networks", json={"name": "third", "project": "red", "subnet": one["subnet"]})
    assert overlapping.status_code == 400


def test_the_openapi_document_names_every_route_and_problem(api: TestClient) -> None:
    document = api.get("/openapi.json").json()
    assert "/v1/nodes/{node}/provision" in document["paths"]
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            assert "404" in route["responses"], (path, method)
