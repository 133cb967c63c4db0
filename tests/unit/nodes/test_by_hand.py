"""A node that people switch: an operation says what to do, and goes on when somebody says that it is done."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.wait import wait_until
from tests.service import memory_parts, memory_settings, serving
from tests.unit.conftest import Site


@pytest.fixture
def site(database_url: str, tmp_path: Path) -> Iterator[Site]:
    settings = memory_settings(tmp_path, database_url, power={"memory": {}, "manual": {}})
    with memory_parts(settings) as parts, serving(parts, settings) as api:
        made = Site(api, parts, tmp_path)
        made.project("red")
        made.network("net", "red")
        made.image("golden")
        made.node("machine", 1)
        body = {
            "name": "hand",
            "bmc": {"driver": "manual", "address": "rack 3, shelf 2"},
            "nics": [{"mac": "52:54:00:00:00:02", "switch": "sw1", "port": "port2"}],
        }
        assert api.post("/v1/nodes", json=body).status_code == 201
        yield made


def told(api: TestClient, words: str) -> None:
    def look() -> bool:
        events: list[dict[str, Any]] = api.get("/v1/nodes/hand/events", params={"limit": 1000}).json()[
            "items"
        ]
        return any(words in event["message"] and "waiting for it" in event["message"] for event in events)

    wait_until(look, deadline=20, what=f"an event that says {words}", next_step="-")


def say(api: TestClient, state: str) -> None:
    answer = api.post("/v1/nodes/hand/power/said", json={"state": state})
    assert answer.status_code == 200, answer.text


def test_a_provision_waits_for_the_hand_and_goes_on(site: Site) -> None:
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    asked = site.api.post("/v1/nodes/hand/provision", json=body)
    told(site.api, "the node at rack 3, shelf 2 has to be switched off by hand")
    say(site.api, "off")
    told(site.api, "has to be switched on by hand")
    assert site.api.get("/v1/nodes/hand/power").json() == {"state": "off"}
    say(site.api, "on")
    assert site.ended(asked)["state"] == "succeeded"
    given_back = site.api.post("/v1/nodes/hand/deprovision", json={})
    wait_until(
        lambda: site.api.get(given_back.headers["Location"]).json()["steps"],
        deadline=20,
        what="the first step",
        next_step="-",
    )
    say(site.api, "off")
    assert site.ended(given_back)["state"] == "succeeded"


def test_a_hand_that_does_not_come_can_be_waited_for_no_longer(site: Site) -> None:
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    asked = site.api.post("/v1/nodes/hand/provision", json=body)
    told(site.api, "switched off by hand")
    assert site.api.post(f"{asked.headers['Location']}/cancel").status_code == 202
    ended = site.ended(asked)
    assert (ended["state"], ended["ending"]) == ("cancelled", "undone")


def test_nobody_says_so_of_a_node_with_a_controller_or_without_the_right(site: Site) -> None:
    refused = site.api.post("/v1/nodes/machine/power/said", json={"state": "off"})
    assert refused.status_code == 409
    assert "its power driver memory asks its controller" in refused.json()["detail"]
    body = {"name": "m", "role": "manager", "project": "red"}
    secret = site.api.post("/v1/tokens", json=body).json()["secret"]
    manager = TestClient(site.api.app, headers={"Authorization": f"Bearer {secret}"})
    assert manager.post("/v1/nodes/hand/power/said", json={"state": "off"}).status_code == 404


def test_what_people_said_is_no_setting_of_the_node(site: Site) -> None:
    say(site.api, "off")
    body = {
        "name": "hand",
        "bmc": {"driver": "manual", "address": "rack 3, shelf 2"},
        "nics": [{"mac": "52:54:00:00:00:02", "switch": "sw1", "port": "port2"}],
    }
    other = body | {
        "name": "other",
        "nics": [{"mac": "52:54:00:00:00:03", "switch": "sw1", "port": "port3"}],
    }
    answer = site.api.post("/v1/nodes/batch", json={"nodes": [body, other]}).json()
    assert [verdict["outcome"] for verdict in answer["verdicts"]] == ["unchanged", "new"]
    changed = site.api.patch("/v1/nodes/hand", json={"bmc": {"address": "rack 4"}}).json()
    assert changed["bmc"]["options"] == {}
    assert site.api.get("/v1/nodes/hand/power").json() == {"state": "off"}
