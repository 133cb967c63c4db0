"""The audit trail over the whole API: what gets a line, who reads it, and that nobody changes it."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bmi.audit import middleware, service
from bmi.audit.middleware import came_from
from bmi.audit.models import Audit
from bmi.db import Db, now
from bmi.errors import BadRequest
from bmi.ids import new_id
from bmi.parts import Parts
from tests.unit.conftest import Site


def lines(api: TestClient, **query: str) -> list[dict[str, Any]]:
    answer = api.get("/v1/audit", params={"limit": 1000, **query})
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["items"]
    return found


def token(api: TestClient, name: str, role: str, project: str) -> dict[str, str]:
    made = api.post("/v1/tokens", json={"name": name, "role": role, "project": project})
    return {"Authorization": f"Bearer {made.json()['secret']}"}


def test_a_change_has_one_line_that_says_who_what_whence_and_what_came_of_it(site: Site) -> None:
    answer = site.api.post("/v1/projects", json={"name": "red"})
    (line,) = lines(site.api)
    assert line["caller"] == "admin"
    assert UUID(line["token_id"])
    assert (line["action"], line["route"]) == ("project.write", "POST /v1/projects")
    assert (line["outcome"], line["status"], line["code"]) == ("done", 201, None)
    assert line["address"] == "testclient"
    assert line["request_id"] == answer.headers["x-request-id"]


def test_an_operation_that_was_asked_for_is_named_with_its_thing_and_project(site: Site) -> None:
    site.project("red")
    asked = site.api.post("/v1/networks", json={"name": "net", "project": "red"})
    site.ended(asked)
    line = lines(site.api)[-1]
    assert line["operation_id"] == asked.json()["id"]
    assert (line["action"], line["project"]) == ("network.write", "red")


def test_reading_has_no_line_unless_it_is_refused(site: Site) -> None:
    site.project("red")
    site.node("n1", 1)
    before = len(lines(site.api))
    site.api.get("/v1/nodes")
    assert len(lines(site.api)) == before
    site.api.get("/v1/nodes/n9")
    line = lines(site.api)[-1]
    assert (line["outcome"], line["status"], line["code"]) == ("refused", 404, "not-found")
    assert line["thing"] == "node n9"


def test_who_is_not_known_gets_a_line_without_a_caller(site: Site) -> None:
    for headers in ({"Authorization": "Bearer bmi_canary"}, {"Authorization": ""}):
        assert site.api.get("/v1/nodes", headers=headers).status_code == 401
    found = lines(site.api, outcome="refused")
    assert [(line["caller"], line["status"], line["route"]) for line in found] == [
        (None, 401, "GET /v1/nodes"),
        (None, 401, "GET /v1/nodes"),
    ]
    assert "canary" not in str(found)
    before = len(lines(site.api))
    assert site.api.get("/robots.txt", headers={"Authorization": ""}).status_code == 404
    assert len(lines(site.api)) == before


def test_what_may_not_be_done_is_refused_and_wrong_values_failed(site: Site) -> None:
    site.project("red")
    viewer = token(site.api, "v", "viewer", "red")
    assert site.api.post("/v1/projects", json={"name": "blue"}, headers=viewer).status_code in (403, 404)
    site.api.post("/v1/projects", json={"name": "Not A Name", "password": "canary"})
    refused, failed = lines(site.api)[-2:]
    assert (refused["caller"], refused["outcome"], refused["project"]) == ("v", "refused", "red")
    assert (failed["outcome"], failed["status"], failed["code"]) == ("failed", 422, "bad-request")
    assert "canary" not in str(failed)


def test_a_manager_reads_of_his_project_and_of_no_other(site: Site) -> None:
    for name in ("red", "blue"):
        site.project(name)
    red, blue = (token(site.api, f"m-{name}", "manager", name) for name in ("red", "blue"))
    site.ended(site.api.post("/v1/networks", json={"name": "net"}, headers=red))
    assert site.api.delete("/v1/networks/net?project=red", headers=blue).status_code == 404
    mine = site.api.get("/v1/audit", headers=red).json()["items"]
    theirs = site.api.get("/v1/audit", headers=blue).json()["items"]
    assert {line["project"] for line in mine} == {"red"}
    assert {line["project"] for line in theirs} == {"blue"}
    assert "m-blue" not in {line["caller"] for line in mine}
    assert "m-blue" in {line["caller"] for line in theirs}
    assert site.api.get("/v1/audit?project=red", headers=blue).status_code == 404
    viewer = token(site.api, "v", "viewer", "red")
    assert site.api.get("/v1/audit", headers=viewer).status_code == 403


def test_it_is_paged_and_filtered(site: Site) -> None:
    for name in ("red", "blue", "green"):
        site.project(name)
    first = site.api.get("/v1/audit", params={"limit": 2}).json()
    second = site.api.get("/v1/audit", params={"limit": 2, "cursor": first["next"]}).json()
    assert [len(first["items"]), len(second["items"])] == [2, 1]
    assert second["next"] is None
    assert lines(site.api, caller="nobody") == []
    assert len(lines(site.api, caller="admin")) == 3
    late = (now() + timedelta(hours=1)).isoformat()
    assert lines(site.api, since=late) == []
    assert len(lines(site.api, until=late)) == 3


def test_the_database_refuses_to_change_or_remove_a_line(site: Site, parts: Parts) -> None:
    site.project("red")
    for statement in ("UPDATE audit SET caller = 'x'", "DELETE FROM audit"):
        with pytest.raises(DBAPIError, match="append-only"), parts.db.write() as session:
            session.execute(text(statement))
    if not parts.db.sqlite:
        with pytest.raises(DBAPIError, match="append-only"), parts.db.write() as session:
            session.execute(text("TRUNCATE audit"))
    assert len(lines(site.api)) == 1


def old_line(db: Db, days: int) -> None:
    with db.write() as session:
        session.add(
            Audit(
                at=now() - timedelta(days=days),
                action="project.write",
                route="POST /v1/projects",
                thing="",
                address="",
                outcome="done",
                status=201,
                request_id=new_id(),
            )
        )


def test_old_lines_are_removed_in_one_deliberate_way_which_stays_in_the_trail(
    site: Site, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_BATCH", 2)
    for days in (100, 101, 102, 50):
        old_line(parts.db, days)
    with pytest.raises(BadRequest, match="30 days"):
        service.prune(parts.db, 29)
    removed, _ = service.prune(parts.db, 90)
    assert removed == 3
    assert [line["action"] for line in lines(site.api)] == ["project.write", "audit.prune"]
    assert lines(site.api)[-1]["caller"].startswith("local user ")
    for statement in (
        "DELETE FROM audit",
        "DELETE FROM audit_retention",
        "UPDATE audit_retention SET at = at",
    ):
        with pytest.raises(DBAPIError, match="append-only"), parts.db.write() as session:
            session.execute(text(statement))


def test_what_cannot_be_written_down_is_not_answered(
    site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr(middleware.AuditMiddleware, "_add", broken)
    answer = site.api.post("/v1/tokens", json={"name": "t", "role": "admin"})
    assert (answer.status_code, answer.json()["code"]) == (503, "audit-failed")
    assert "bmi_" not in answer.text
    assert site.api.get("/v1/nodes").status_code == 200


def test_nobody_fills_the_trail_by_being_refused(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(middleware._Refusals, "EACH", 3)
    for _ in range(5):
        site.api.get("/v1/nodes", headers={"Authorization": "Bearer wrong"})
    assert len(lines(site.api)) == 3
    site.project("red")
    assert len(lines(site.api)) == 4


@pytest.mark.parametrize(
    ("client", "said", "found"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
    ],
)
def test_only_trusted_proxies_say_who_asks(client: str, said: list[str], found: str) -> None:
    from ipaddress import ip_network

    scope = {
        "type": "http",
        "client": (client, 1),
        "headers": [(b"x-forwarded-for", entry.encode()) for entry in said],
    }
    assert came_from(scope, [ip_network("10.0.0.0/8")]) == found
