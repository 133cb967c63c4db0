"""The audit trail over the whole API: what gets a line, who reads it, and that nobody changes it."""

import re
from datetime import timedelta
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from bmi import server
from bmi.access import service as access_service
from bmi.access.models import Token
from bmi.access.rules import rules
from bmi.audit import limit, middleware, service
from bmi.audit.middleware import came_from
from bmi.audit.models import Audit
from bmi.db import Db, now
from bmi.errors import BadRequest, DatabaseUnavailable
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.settings import load_settings
from tests.service import memory_parts, memory_settings, serving
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


def test_sqlite_lets_nobody_replace_a_line(site: Site, parts: Parts) -> None:
    if not parts.db.sqlite:
        pytest.skip("PostgreSQL has no REPLACE")
    site.project("red")
    for statement, why in (
        ("INSERT OR REPLACE INTO audit SELECT * FROM audit", "append-only"),
        ("SELECT rowid FROM audit", "no such column: rowid"),  # what REPLACE would find another line by
    ):
        with pytest.raises(DBAPIError, match=why), parts.db.write() as session:
            session.execute(text(statement))


@pytest.mark.parametrize("before", ["soon", "29 days ago", "2461545"])
def test_the_database_lets_nobody_say_that_young_lines_may_go(site: Site, parts: Parts, before: str) -> None:
    site.project("red")
    days = {"soon": -1, "29 days ago": 29}.get(before)
    value = before if days is None else (now() - timedelta(days=days)).strftime("%Y-%m-%d %H:%M:%S.%f")
    statement = "INSERT INTO audit_retention (id, at, by, before) VALUES (:id, :at, 'x', :before)"
    values = {"id": new_id().hex, "at": "2026-01-01 00:00:00.000000", "before": value}
    # A number is a time for some of SQLite's functions, and a word that is larger than each time of this century.
    with pytest.raises(DBAPIError), parts.db.write() as session:
        session.execute(text(statement), values)
        session.execute(text("DELETE FROM audit"))
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


def test_nobody_fills_the_trail_by_being_refused_and_it_says_where_it_has_a_gap(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit.Limit, "EACH", 3)
    for _ in range(6):
        site.api.get("/v1/nodes", headers={"Authorization": "Bearer wrong"})
    found = lines(site.api)
    assert [line["action"] for line in found] == ["GET /v1/nodes"] * 3 + ["audit.limit"]
    assert found[-1]["thing"].startswith("address testclient: more lines")
    site.project("red")
    assert lines(site.api)[-1]["action"] == "project.write"


def test_changes_are_never_left_out_and_wrong_requests_of_a_caller_are(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit.Limit, "EACH", 2)
    for _ in range(5):
        assert site.api.post("/v1/projects", json={"name": "No Name"}).status_code == 422
    for name in ("red", "blue", "green", "grey"):
        site.project(name)
    assert [line["outcome"] for line in lines(site.api)] == ["failed"] * 3 + ["done"] * 4


def test_who_is_not_known_writes_nothing_but_that_he_was_refused(site: Site) -> None:
    nobody = {"Authorization": ""}
    asked = [
        site.api.post("/v1/nodes", content=b"{", headers=nobody | {"Content-Type": "application/json"}),
        site.api.post("/v1/nodes/", headers=nobody, follow_redirects=False),
        site.api.post("/v1/version", headers=nobody),
        site.api.post("/v1/nothing", headers=nobody),
    ]
    assert [answer.status_code for answer in asked] == [422, 307, 405, 404]
    assert lines(site.api) == []


def test_an_expired_token_is_refused_in_its_own_name(site: Site, parts: Parts) -> None:
    site.project("red")
    old = token(site.api, "old", "manager", "red")
    with parts.db.write() as session:
        session.query(Token).filter_by(name="old").one().expires_at = now() - timedelta(days=1)
    assert site.api.get("/v1/nodes", headers=old).status_code == 401
    line = lines(site.api)[-1]
    assert (line["caller"], line["project"], line["status"]) == ("old", "red", 401)


def filled(path: str) -> str:
    some = {"operation": str(new_id()), "upload": str(new_id())}
    return re.sub(r"\{(\w+)\}", lambda name: some.get(name[1], "some"), path)


def test_every_route_that_changes_something_has_a_line_for_who_may_and_for_who_may_not(
    site: Site, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limit.Limit, "EACH", 1000)
    found = rules(server.build_app(parts).routes)
    changing = sorted(
        (method, path)
        for (method, path), rule in found.items()
        if method not in ("GET", "HEAD") and not rule.public
    )
    assert len(changing) > 30
    for method, path in changing:
        for headers in ({}, {"Authorization": "Bearer wrong"}):
            # Things that are not there, and bodies that most of them do not take.
            answer = site.api.request(method, filled(path), json={}, headers=headers)
            line = lines(site.api)[-1]
            assert line["request_id"] == answer.headers["x-request-id"], (method, path)
            assert (line["route"], line["status"]) == (f"{method} {path}", answer.status_code)
            assert line["caller"] == (None if headers else "admin")


def test_a_line_names_what_was_made_and_what_was_removed(site: Site) -> None:
    site.project("red")
    token(site.api, "m", "manager", "red")
    site.node("n1", 1)
    site.api.delete("/v1/nodes/n1")
    found = [line["thing"] for line in lines(site.api)]
    assert found == [
        "project red, the system",
        "token m, role manager, project red",
        "node n1, the inventory",
        "node n1",
    ]


def test_a_defect_has_a_line_and_its_answer_the_id_that_is_in_the_log(
    site: Site, parts: Parts, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("canary")

    monkeypatch.setattr(access_service, "create_project", broken)
    outside = TestClient(site.api.app, headers=site.api.headers, raise_server_exceptions=False)
    answer = outside.post("/v1/projects", json={"name": "red"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    line = lines(site.api)[-1]
    assert line["request_id"] == answer.headers["x-request-id"]
    assert (line["outcome"], line["status"], line["code"]) == ("failed", 500, "internal")
    assert f"request {line['request_id']}: unexpected RuntimeError" in caplog.text
    assert "canary" not in answer.text + str(line)


def test_without_a_database_the_answer_says_so_and_not_that_the_trail_failed(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise DatabaseUnavailable("it is away", next_step="wait")

    monkeypatch.setattr(access_service, "create_project", away)
    monkeypatch.setattr(middleware.AuditMiddleware, "_add", away)
    answer = site.api.post("/v1/projects", json={"name": "red"})
    assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
    assert answer.headers["x-request-id"]


def test_a_time_that_is_none_in_utc_is_the_callers_error(site: Site) -> None:
    answer = site.api.get("/v1/audit", params={"since": "0001-01-01T00:00:00+14:00"})
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")


def test_no_body_query_or_header_is_in_the_trail(site: Site) -> None:
    site.project("red")
    for method, path, more in (
        (
            "POST",
            "/v1/nodes?token=canary",
            {"json": {"name": "n1", "bmc": {"password": "canary"}, "nics": []}},
        ),
        ("POST", "/v1/tokens", {"json": {"name": "m", "role": "manager", "project": "canary!"}}),
        ("POST", "/v1/images/import", {"json": {"name": "x", "url": "https://u:canary@x/y?key=canary"}}),
        ("POST", "/v1/nodes/n1/provision", {"json": {"user_data": "canary", "chap": "canary"}}),
        (
            "GET",
            "/v1/nodes?key=canary",
            {"headers": {"Authorization": "Bearer canary", "X-Request-Id": "canary"}},
        ),
    ):
        site.api.request(method, path, **more)  # type: ignore[arg-type]
    found = lines(site.api)
    assert len(found) == 6
    assert [line for line in found if "canary" in str(line) and line["thing"] != "project canary!"] == []


@pytest.mark.parametrize(
    ("client", "said", "found"),
    [
        ("192.0.2.1", ["198.51.100.7"], "192.0.2.1"),
        ("10.0.0.1", ["198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9, 198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.7, 10.0.0.2"], "198.51.100.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("::ffff:10.0.0.1", ["::ffff:198.51.100.7"], "198.51.100.7"),
        ("10.0.0.1", ["198.51.100.7, nonsense"], "nonsense"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
    ],
)
def test_only_trusted_proxies_say_who_asks(client: str, said: list[str], found: str) -> None:
    scope = {
        "type": "http",
        "client": (client, 1),
        "headers": [(b"x-forwarded-for", entry.encode()) for entry in said],
    }
    assert came_from(scope, [ip_network("10.0.0.0/8")]) == found


@pytest.mark.parametrize(("peer", "found"), [("10.0.0.9", "198.51.100.7"), ("10.0.1.9", "10.0.1.9")])
def test_the_settings_name_the_proxies_that_are_believed(
    database_url: str, tmp_path: Path, peer: str, found: str
) -> None:
    file = tmp_path / "bmi.toml"
    file.write_text('[api]\ntrusted_proxies = ["10.0.0.0/24"]\n')
    update = {"api": load_settings(file).api}
    settings = memory_settings(tmp_path, database_url).model_copy(update=update)
    with memory_parts(settings) as parts, serving(parts, settings) as api:
        behind = TestClient(
            api.app, client=(peer, 1024), headers={"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}
        )
        assert behind.get("/v1/nodes").status_code == 401
        assert lines(api)[-1]["address"] == found


def test_without_that_setting_nobody_is_believed_not_even_on_this_host(site: Site) -> None:
    behind = TestClient(site.api.app, client=("127.0.0.1", 1024), headers={"X-Forwarded-For": "203.0.113.9"})
    assert behind.get("/v1/nodes").status_code == 401
    assert lines(site.api)[-1]["address"] == "127.0.0.1"
