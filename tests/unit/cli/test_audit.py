"""What `bmi audit` asks of the service, and what it prints."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.client.fake_service import ID, WHEN, Asked, Service, page, problem

Bmi = Callable[..., tuple[int, str, str]]


def line(**more: Any) -> dict[str, Any]:
    return {
        "id": ID,
        "at": WHEN,
        "caller": "alice",
        "token_id": ID,
        "action": "node.use",
        "route": "POST /v1/nodes/{node}/power",
        "thing": "node n1",
        "project": "red",
        "address": "192.0.2.7",
        "outcome": "refused",
        "status": 403,
        "code": "not-allowed",
        "request_id": ID,
        "operation_id": None,
        **more,
    }


def test_a_list_says_who_what_whence_and_what_came_of_it(service: Service, bmi: Bmi) -> None:
    service.on(
        "GET", "/audit", page(line(), line(caller=None, thing="", project=None, outcome="done", code=None))
    )

    status, out, err = bmi("audit", "list")

    assert (status, err) == (0, "")
    assert out.splitlines()[1].split("  ")[0] == "2026-01-02 10:00:00"
    for word in ("alice", "192.0.2.7", "node.use", "node n1", "red", "refused (403 not-allowed)"):
        assert word in out
    (asked,) = service.requests("GET", "/audit")
    assert set(asked.query) == {"since", "limit"}, "yesterday and today, unless told otherwise"


def test_what_is_looked_for_is_asked_of_the_service(service: Service, bmi: Bmi) -> None:
    service.on("GET", "/audit", page())

    status, out, err = bmi(
        "audit", "list", "--since", "2026-01-31T12:00", "--until", "2026-02-01T00:00+01:00",
        "--caller", "alice", "--outcome", "refused", "--project", "red",
    )  # fmt: skip

    assert (status, out, err) == (0, "", "nothing was changed or refused\n")
    (asked,) = service.requests("GET", "/audit")
    del asked.query["limit"]
    assert asked.query == {
        "since": "2026-01-31T12:00:00+00:00",
        "until": "2026-02-01T00:00:00+01:00",
        "caller": "alice",
        "outcome": "refused",
        "project": "red",
    }


def test_an_export_is_a_line_for_each_entry_of_all_pages(service: Service, bmi: Bmi) -> None:
    def pages(asked: Asked) -> Any:
        return page(line(thing="second")) if "cursor" in asked.query else page(line(thing="first"), next="x")

    service.on("GET", "/audit", pages)

    status, out, err = bmi("audit", "export")

    assert (status, err) == (0, "")
    assert [json.loads(text)["thing"] for text in out.splitlines()] == ["first", "second"]
    assert all("since" not in asked.query for asked in service.requests("GET", "/audit"))


@pytest.mark.parametrize("time", ["yesterday", "7w", "2026-13-01", "-1d", "999999d"])
def test_what_is_no_time_is_said_before_anything_is_asked(service: Service, bmi: Bmi, time: str) -> None:
    status, out, err = bmi("audit", "export", f"--since={time}")

    assert (status, out) == (2, "")
    assert time in err
    assert "2h for two hours ago" in err
    assert service.asked == []


def test_an_export_prints_each_page_before_it_asks_for_the_next(service: Service, bmi: Bmi) -> None:
    def pages(asked: Asked) -> Any:
        if "cursor" in asked.query:
            return problem(500, "internal", "it broke")
        return page(line(thing="first"), next="x")

    service.on("GET", "/audit", pages)

    status, out, err = bmi("audit", "export")

    assert status == 1
    assert [json.loads(text)["thing"] for text in out.splitlines()] == ["first"]
    assert "it broke" in err
