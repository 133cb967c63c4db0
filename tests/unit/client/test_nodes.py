from itertools import islice
from typing import Any

import pytest

from bmi.api.nodes import NodeState
from bmi.client import Client, Unreachable
from bmi.client import history as module
from tests.unit.client.fake_service import Answer, Asked, Service, page


def happened(number: int) -> dict[str, Any]:
    return {
        "id": f"0199c5d2-0000-7000-8000-{number:012}",
        "at": "2026-01-02T10:00:00Z",
        "kind": "dhcp.ack",
        "message": f"event {number}",
    }


def test_state_of_power(service: Service) -> None:
    service.on("GET", "/nodes/n1/power", Answer({"state": "off"}))
    with Client(service.url, "sesame") as bmi:
        assert bmi.nodes.power("n1").state == "off"


def test_list_shows_free_nodes_too_whatever_the_clients_project(service: Service) -> None:
    service.on("GET", "/nodes", page())
    with Client(service.url, "sesame", project="blue") as bmi:
        list(bmi.nodes.list())
        list(bmi.nodes.list(state=NodeState.ACTIVE, project="blue"))
    assert "project" not in service.asked[0].query
    assert service.asked[1].query == {"state": "active", "project": "blue", "limit": "100"}


def test_events_are_followed_from_the_first_to_those_yet_to_come(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LOOK", 0.01)
    answers: list[Answer | None] = [
        page(happened(1), happened(2), next="c1"),
        page(happened(3)),
        page(happened(3)),
        None,
        page(happened(3), happened(4), next="c2"),
        page(happened(5)),
    ]

    def route(asked: Asked) -> Answer:
        answer = answers.pop(0)
        if answer is None:
            raise ConnectionResetError
        return answer

    service.on("GET", "/nodes/n1/events", route)
    with Client(service.url, "sesame") as bmi:
        messages = [event.message for event in islice(bmi.nodes.follow_events("n1"), 5)]
    assert messages == [f"event {number}" for number in range(1, 6)]
    assert [one.query.get("cursor") for one in service.asked] == [None, "c1", "c1", "c1", "c1", "c2"]


def test_following_events_of_a_service_that_is_not_there_fails_at_once() -> None:
    with Client("http://127.0.0.1:1", "sesame") as bmi, pytest.raises(Unreachable):
        next(bmi.nodes.follow_events("n1"))
