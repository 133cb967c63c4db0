"""People who log in: what they may do, for how long, and what becomes of it when somebody changes his mind."""

from datetime import timedelta
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.access import passwords, throttle
from bmi.access.models import LogIn, Token, User
from bmi.access.sessions import sweep_sessions
from bmi.db import now
from bmi.errors import TooManyAttempts
from bmi.parts import Parts
from bmi.settings import Settings

PASSWORD, OTHER = "a long and secret word", "another long and secret word"


class People:
    """Says what a test needs of people in a line each."""

    def __init__(self, api: TestClient) -> None:
        self.api = api

    def make(self, name: str, *, admin: bool = False, **roles: str) -> dict[str, Any]:
        made = self.api.post("/v1/users", json={"name": name, "password": PASSWORD, "admin": admin})
        assert made.status_code == 201, made.text
        for project, role in roles.items():
            given = self.api.put(f"/v1/projects/{project}/members/{name}", json={"role": role})
            assert given.status_code == 200, given.text
        found: dict[str, Any] = made.json()
        return found

    def try_to_log_in(self, name: str, password: str = PASSWORD, address: str | None = None) -> Any:
        headers = {"Authorization": ""}
        if address is not None:
            headers["X-Forwarded-For"] = address
        return self.api.post("/v1/login", json={"name": name, "password": password}, headers=headers)

    def log_in(self, name: str, password: str = PASSWORD) -> TestClient:
        begun = self.try_to_log_in(name, password)
        assert begun.status_code == 201, begun.text
        return self.bearer(begun.json()["secret"])

    def bearer(self, secret: str) -> TestClient:
        return TestClient(self.api.app, headers={"Authorization": f"Bearer {secret}"})


@pytest.fixture
def people(api: TestClient, site: Any) -> People:
    site.project("red")
    site.project("blue")
    return People(api)


def status(client: TestClient, method: str, path: str, **more: Any) -> int:
    return client.request(method, f"/v1{path}", **more).status_code


# --- logging in ------------------------------------------------------------------------------------------------


def test_who_logs_in_has_the_roles_of_his_projects_and_nothing_else(people: People, site: Any) -> None:
    people.make("ann", red="manager", blue="viewer")
    ann = people.log_in("ann")
    me = ann.get("/v1/whoami").json()
    assert (me["name"], me["user"], me["admin"]) == ("ann", "ann", False)
    assert me["roles"] == {"red": "manager", "blue": "viewer"}
    assert status(ann, "POST", "/networks", json={"name": "n", "project": "red"}) == 202
    assert status(ann, "POST", "/networks", json={"name": "n", "project": "blue"}) == 403
    assert status(ann, "GET", "/projects/green") == 404
    nameless = ann.post("/v1/networks", json={"name": "n"})
    assert (nameless.status_code, nameless.json()["detail"]) == (400, "no project was named")
    assert {row["name"] for row in ann.get("/v1/projects").json()["items"]} == {"red", "blue"}
    assert status(ann, "GET", "/users") == status(ann, "POST", "/projects", json={"name": "x"}) == 403


def test_who_belongs_to_one_project_need_not_name_it_and_to_none_is_told_so(people: People) -> None:
    people.make("ann", red="manager")
    people.make("eve")
    assert status(people.log_in("ann"), "POST", "/networks", json={"name": "n"}) == 202
    eve = people.log_in("eve")
    refused = eve.post("/v1/networks", json={"name": "n"}).json()
    assert "belongs to no project yet" in refused["detail"]
    assert "bmi project grant" in refused["next_step"]
    for path in ("/projects", "/nodes", "/images", "/disks", "/networks", "/operations"):
        found = eve.get(f"/v1{path}")
        assert (found.status_code, found.json().get("items")) == (200, []), path


def test_lists_have_what_one_may_see_in_all_of_his_projects(people: People, site: Any) -> None:
    site.network("lan", "red")
    site.network("lan", "blue")
    people.make("ann", red="member", blue="viewer")
    ann = people.log_in("ann")
    found = ann.get("/v1/networks").json()["items"]
    assert {row["project"] for row in found} == {"red", "blue"}
    assert [row["project"] for row in ann.get("/v1/networks?project=blue").json()["items"]] == ["blue"]
    twice = ann.get("/v1/networks/lan")
    assert (twice.status_code, "several" in twice.json()["detail"]) == (400, True)
    assert status(ann, "GET", "/networks/red:lan") == 200
    # Uploads are for members: as a viewer of blue she sees none of there, and may ask for those of red.
    people.api.post("/v1/uploads", json={"project": "blue"})
    mine = people.api.post("/v1/uploads", json={"project": "red"}).json()
    assert [row["id"] for row in ann.get("/v1/uploads").json()["items"]] == [mine["id"]]


def test_an_admin_is_one_everywhere(people: People) -> None:
    people.make("root", admin=True)
    root = people.log_in("root")
    assert root.get("/v1/whoami").json()["admin"] is True
    assert status(root, "POST", "/projects", json={"name": "green"}) == 201
    assert status(root, "POST", "/networks", json={"name": "n", "project": "blue"}) == 202


def test_neither_the_answer_nor_the_work_tells_whether_there_is_such_a_user(
    people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    people.make("ann")
    compared: list[str] = []
    verify = passwords._HASHER.verify

    def counted(kept: str, password: str) -> bool:
        compared.append(kept)
        return bool(verify(kept, password))

    class Counting:
        def verify(self, kept: str, password: str) -> bool:
            return counted(kept, password)

    monkeypatch.setattr(passwords, "_HASHER", Counting())
    wrong, nobody = people.try_to_log_in("ann", OTHER), people.try_to_log_in("nobody", OTHER)
    assert wrong.status_code == nobody.status_code == 401
    assert wrong.json() == nobody.json()
    # One slow hash each, of the same kind.
    assert len(compared) == 2
    assert (
        compared[0].split("$")[1:4] == compared[1].split("$")[1:4] == ["argon2id", "v=19", "m=65536,t=3,p=4"]
    )


def test_the_same_password_is_written_in_several_ways(people: People) -> None:
    composed, decomposed = "stra\u00dfe zum caf\u00e9", "stra\u00dfe zum cafe\u0301"
    assert people.api.post("/v1/users", json={"name": "ann", "password": composed}).status_code == 201
    assert people.try_to_log_in("ann", decomposed).status_code == 201


@pytest.mark.parametrize("password", ["short", "", "x" * 1025, 7, None])
def test_passwords_are_long_enough_and_not_shown(people: People, password: Any) -> None:
    answer = people.api.post("/v1/users", json={"name": "ann", "password": password})
    assert answer.status_code == 422
    assert str(password or "no password") not in answer.text.replace("1024", "")


def test_what_is_kept_of_passwords_and_sessions_lets_nobody_in(people: People, parts: Parts) -> None:
    people.make("ann")
    secret = people.try_to_log_in("ann").json()["secret"]
    with parts.db.read() as session:
        user, begun = session.query(User).one(), session.query(LogIn).one()
    assert user.password is not None
    assert user.password.startswith("$argon2id$")
    assert PASSWORD not in user.password
    assert secret.startswith("bmis_")
    assert secret not in begun.digest
    for kept in (user.password, begun.digest, secret[:-1], secret.removeprefix("bmis_")):
        assert status(people.bearer(kept), "GET", "/whoami") == 401
    assert people.try_to_log_in("ann", user.password).status_code == 401


# --- sessions end ----------------------------------------------------------------------------------------------


def test_logging_out_ends_one_session(people: People) -> None:
    people.make("ann")
    one, two = people.log_in("ann"), people.log_in("ann")
    assert status(one, "POST", "/logout") == 204
    assert status(one, "GET", "/whoami") == 401
    assert status(two, "GET", "/whoami") == 200
    no_session = people.api.post("/v1/logout")
    assert (no_session.status_code, "bmi token revoke" in no_session.json()["next_step"]) == (400, True)


def test_sessions_end_when_unused_and_at_the_latest_after_a_week(
    people: People, parts: Parts, settings: Settings
) -> None:
    people.make("ann")
    unused, old, used = (people.log_in("ann") for _ in range(3))
    with parts.db.write() as session:
        rows = session.query(LogIn).order_by(LogIn.id).all()
        idle = timedelta(seconds=settings.access.session_idle)
        rows[0].used_at = now() - idle - timedelta(seconds=1)
        rows[1].expires_at = now() - timedelta(seconds=1)
        rows[2].used_at = now() - idle + timedelta(minutes=5)
    assert status(unused, "GET", "/whoami") == status(old, "GET", "/whoami") == 401
    assert status(used, "GET", "/whoami") == 200
    with parts.db.read() as session:
        fresh = session.query(LogIn).order_by(LogIn.id.desc()).first()
        assert fresh is not None
        assert now() - fresh.used_at < timedelta(minutes=1)  # using it keeps it
    sweep_sessions(parts.db, settings.access)
    with parts.db.read() as session:
        assert [row.id for row in session.query(LogIn)] == [fresh.id]


@pytest.mark.parametrize("what", ["disable", "delete", "new password", "own password"])
def test_what_ends_all_sessions_of_a_user(people: People, what: str) -> None:
    people.make("ann", red="member")
    people.make("bob")
    ann, here, bob = people.log_in("ann"), people.log_in("ann"), people.log_in("bob")
    match what:
        case "disable":
            assert status(people.api, "PATCH", "/users/ann", json={"disabled": True}) == 200
        case "delete":
            assert status(people.api, "DELETE", "/users/ann") == 204
        case "new password":
            assert status(people.api, "PUT", "/users/ann/password", json={"password": OTHER}) == 204
        case "own password":
            assert status(here, "PUT", "/password", json={"old": PASSWORD, "new": OTHER}) == 204
    assert status(ann, "GET", "/whoami") == 401
    assert status(here, "GET", "/whoami") == (200 if what == "own password" else 401)
    assert status(bob, "GET", "/whoami") == 200
    assert people.try_to_log_in("ann").status_code == 401
    assert people.try_to_log_in("ann", OTHER).status_code == (201 if "password" in what else 401)
    if what == "disable":
        people.api.patch("/v1/users/ann", json={"disabled": False})
        assert status(ann, "GET", "/whoami") == 401  # it has ended, and does not come back
        assert people.try_to_log_in("ann").status_code == 201


def test_the_old_password_is_needed_for_a_new_one(people: People) -> None:
    people.make("ann")
    ann = people.log_in("ann")
    refused = ann.put("/v1/password", json={"old": OTHER, "new": OTHER})
    assert (refused.status_code, refused.json()["detail"]) == (400, "the old password is wrong")
    assert status(people.api, "PUT", "/password", json={"old": PASSWORD, "new": OTHER}) == 400
    assert people.try_to_log_in("ann").status_code == 201


def test_taking_a_role_away_works_at_once(people: People) -> None:
    people.make("ann", red="member")
    ann = people.log_in("ann")
    assert status(ann, "GET", "/projects/red") == 200
    assert status(people.api, "DELETE", "/projects/red/members/ann") == 204
    assert status(ann, "GET", "/projects/red") == 404
    assert status(people.api, "DELETE", "/projects/red/members/ann") == 409


# --- members ---------------------------------------------------------------------------------------------------


def test_a_manager_lets_others_into_his_project_only(people: People) -> None:
    people.make("mia", red="manager")
    people.make("ann")
    mia = people.log_in("mia")
    assert status(mia, "PUT", "/projects/red/members/ann", json={"role": "member"}) == 200
    assert status(mia, "PUT", "/projects/red/members/ann", json={"role": "viewer"}) == 200
    listed = mia.get("/v1/projects/red/members").json()["items"]
    assert {(row["user"], row["role"], row["provided"]) for row in listed} == {
        ("mia", "manager", False),
        ("ann", "viewer", False),
    }
    assert status(mia, "PUT", "/projects/blue/members/mia", json={"role": "viewer"}) == 404
    assert status(mia, "PUT", "/projects/red/members/nobody", json={"role": "viewer"}) == 404
    assert status(mia, "PUT", "/projects/red/members/ann", json={"role": "admin"}) == 400
    assert status(people.log_in("ann"), "PUT", "/projects/red/members/ann", json={"role": "manager"}) == 403


def test_a_project_that_goes_takes_its_memberships_along(people: People) -> None:
    people.make("ann", red="member")
    assert status(people.api, "DELETE", "/projects/red") == 204
    assert people.log_in("ann").get("/v1/whoami").json()["roles"] == {}


# --- the last admin --------------------------------------------------------------------------------------------


def test_the_last_admin_stays(people: People) -> None:
    people.make("root", admin=True)
    root = people.log_in("root")
    assert status(root, "DELETE", "/tokens/admin") == 204
    for method, path, more in (
        ("DELETE", "/users/root", {}),
        ("PATCH", "/users/root", {"json": {"disabled": True}}),
        ("PATCH", "/users/root", {"json": {"admin": False}}),
    ):
        refused = root.request(method, f"/v1{path}", **more)
        assert (refused.status_code, refused.json()["detail"]) == (409, "there would be no admin left")
    assert root.get("/v1/whoami").json()["admin"] is True
    assert status(root, "POST", "/users", json={"name": "two", "password": PASSWORD, "admin": True}) == 201
    assert status(root, "PATCH", "/users/root", json={"admin": False}) == 200


def test_the_last_token_of_an_admin_stays_where_no_user_is_one(people: People) -> None:
    people.make("ann")
    ends = (now() + timedelta(days=1)).isoformat()
    body = {"name": "soon", "role": "admin", "expires_at": ends}
    assert status(people.api, "POST", "/tokens", json=body) == 201
    assert status(people.api, "DELETE", "/tokens/admin") == 409
    assert status(people.api, "POST", "/tokens", json={"name": "more", "role": "admin"}) == 201
    assert status(people.api, "DELETE", "/tokens/admin") == 204


def test_where_all_admins_end_others_are_removed_all_the_same(people: People, parts: Parts) -> None:
    people.make("ann")
    assert (
        status(people.api, "POST", "/tokens", json={"name": "t", "role": "viewer", "project": "red"}) == 201
    )
    with parts.db.write() as session:
        session.query(Token).filter_by(name="admin").one().expires_at = now() + timedelta(days=1)
    assert status(people.api, "DELETE", "/tokens/t") == 204
    assert status(people.api, "PATCH", "/users/ann", json={"disabled": True}) == 200
    assert status(people.api, "DELETE", "/users/ann") == 204
    assert status(people.api, "DELETE", "/tokens/admin") == 204  # it was to end anyway


# --- tokens of users -------------------------------------------------------------------------------------------


def test_a_token_may_never_more_than_its_user_may_now(people: People) -> None:
    people.make("ann", red="manager")
    ann = people.log_in("ann")
    made = ann.post("/v1/tokens", json={"name": "ci", "role": "manager", "project": "red"}).json()
    assert (made["user"], made["project"]) == ("ann", "red")
    token = people.bearer(made["secret"])
    me = token.get("/v1/whoami").json()
    assert (me["name"], me["user"], me["roles"]) == ("ann/ci", "ann", {"red": "manager"})

    people.api.put("/v1/projects/red/members/ann", json={"role": "viewer"})
    assert token.get("/v1/whoami").json()["roles"] == {"red": "viewer"}
    assert status(token, "POST", "/networks", json={"name": "n"}) == 403
    people.api.delete("/v1/projects/red/members/ann")
    assert token.get("/v1/whoami").json()["roles"] == {}
    people.api.patch("/v1/users/ann", json={"disabled": True})
    assert status(token, "GET", "/whoami") == 401
    people.api.delete("/v1/users/ann")
    assert status(token, "GET", "/whoami") == 401


def test_everybody_makes_and_revokes_tokens_of_his_own(people: People, parts: Parts) -> None:
    people.make("ann", red="viewer")
    people.make("bob", red="viewer")
    people.make("mia", red="manager")
    ann, bob, mia = (people.log_in(name) for name in ("ann", "bob", "mia"))
    assert status(ann, "POST", "/tokens", json={"name": "a", "role": "viewer", "project": "red"}) == 201
    too_much = ann.post("/v1/tokens", json={"name": "b", "role": "member", "project": "red"})
    assert (too_much.status_code, "more than you" in too_much.json()["detail"]) == (403, True)
    assert status(ann, "POST", "/tokens", json={"name": "b", "role": "admin"}) == 403
    assert status(ann, "POST", "/tokens", json={"name": "b", "role": "viewer", "project": "blue"}) == 404
    assert [row["name"] for row in ann.get("/v1/tokens").json()["items"]] == ["a"]
    assert bob.get("/v1/tokens").json()["items"] == []
    assert [row["name"] for row in mia.get("/v1/tokens").json()["items"]] == ["a"]
    assert status(bob, "DELETE", "/tokens/a") == 403
    assert status(ann, "DELETE", "/tokens/a") == 204
    with parts.db.read() as session:
        assert [row.name for row in session.query(Token)] == ["admin"]


def test_a_token_of_a_user_is_not_good_for_his_other_ones(people: People) -> None:
    people.make("ann", red="viewer")
    ann = people.log_in("ann")
    one, two = (
        ann.post("/v1/tokens", json={"name": name, "role": "viewer", "project": "red"}).json()
        for name in ("one", "two")
    )
    stolen = people.bearer(one["secret"])
    assert status(stolen, "DELETE", "/tokens/two") == status(stolen, "GET", "/tokens") == 403
    assert status(people.bearer(two["secret"]), "GET", "/whoami") == 200
    assert status(ann, "DELETE", f"/tokens/{one['id']}") == 204


def test_a_token_of_an_admin_falls_with_him(people: People) -> None:
    people.make("root", admin=True, red="viewer")
    root = people.log_in("root")
    token = people.bearer(root.post("/v1/tokens", json={"name": "t", "role": "admin"}).json()["secret"])
    assert status(token, "GET", "/doctor") == 200
    people.api.patch("/v1/users/root", json={"admin": False})
    assert status(token, "GET", "/doctor") == 403
    assert token.get("/v1/whoami").json()["roles"] == {"red": "viewer"}


# --- too many attempts -----------------------------------------------------------------------------------------


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return Settings.model_validate(
        settings.model_dump()
        | {"access": {"attempts": 3, "name_attempts": 6, "address_attempts": 5, "pause": 600}}
    )


@pytest.fixture(autouse=True)
def from_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let requests come from where a test says; the client of these tests has no address."""

    def came_from(scope: Any, _trusted: object) -> str:
        said: bytes = dict(scope["headers"]).get(b"x-forwarded-for", b"::1")
        return said.decode()

    monkeypatch.setattr("bmi.http.came_from", came_from)


def test_guessing_is_slow_and_locks_nobody_out_elsewhere(people: People) -> None:
    people.make("ann")
    here, there = "192.0.2.1", "198.51.100.1"
    assert [people.try_to_log_in("ann", OTHER, here).status_code for _ in range(5)] == [401] * 3 + [429] * 2
    refused = people.try_to_log_in("ann", PASSWORD, here)
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 600
    assert f"try again in {refused.headers['Retry-After']} s" in refused.json()["next_step"]
    assert people.try_to_log_in("ann", PASSWORD, there).status_code == 201


def test_a_good_log_in_does_not_count(people: People) -> None:
    people.make("ann")
    assert [people.try_to_log_in("ann", PASSWORD, "192.0.2.1").status_code for _ in range(8)] == [201] * 8


def test_one_address_cannot_try_many_names_and_many_addresses_not_one_name(people: People) -> None:
    people.make("ann")
    names = [people.try_to_log_in(f"user-{number}", OTHER, "192.0.2.1").status_code for number in range(6)]
    assert names == [401] * 5 + [429]
    # An IPv6 site is one address, however many it has.
    site = [people.try_to_log_in(f"u-{n}", OTHER, f"2001:db8::{n}").status_code for n in range(6)]
    assert site == [401] * 5 + [429]
    botnet = [people.try_to_log_in("ann", OTHER, f"198.51.100.{n}").status_code for n in range(1, 9)]
    assert botnet == [401] * 6 + [429] * 2


def test_many_wrong_tokens_are_too_many_and_keep_no_good_one_out(people: People) -> None:
    here = {"X-Forwarded-For": "192.0.2.1"}
    stranger = TestClient(people.api.app, headers={"Authorization": "Bearer bmi_wrong", **here})
    assert [stranger.get("/v1/whoami").status_code for _ in range(7)] == [401] * 5 + [429] * 2
    # At the same address: it may be that of a proxy, or of a whole site.
    good = TestClient(people.api.app, headers={**people.api.headers, **here})
    assert good.get("/v1/whoami").status_code == 200
    assert stranger.get("/v1/whoami").status_code == 429


def test_what_is_remembered_of_strangers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "_MANY", 10)
    wrong = throttle.WrongTokens(throttle.Rate(5, 1))
    for number in range(100):
        wrong.wrong(f"192.0.2.{number}", 0.0)
    assert len(wrong._free_at) == 10


def test_a_wrong_token_is_forgotten_after_a_while() -> None:
    wrong = throttle.WrongTokens(throttle.Rate(2, 10))
    for _ in range(2):
        wrong.wrong("192.0.2.1", 0.0)
    with pytest.raises(TooManyAttempts) as refused:
        wrong.wrong("192.0.2.1", 0.0)
    assert refused.value.retry_after == 10
    wrong.wrong("192.0.2.1", 10.0)  # trying meanwhile has not made it longer


# --- the trail -------------------------------------------------------------------------------------------------


def test_the_trail_tells_of_log_ins_and_of_no_password(people: People, parts: Parts) -> None:
    people.make("ann", red="viewer")
    people.try_to_log_in("ann")
    people.try_to_log_in("ann", OTHER)
    people.try_to_log_in(OTHER, PASSWORD)  # somebody typed it where the name belongs
    lines = people.api.get("/v1/audit").json()["items"]
    found = [
        (row["caller"], row["status"], row["thing"]) for row in lines if row["route"] == "POST /v1/login"
    ]
    assert [(caller, code) for caller, code, _ in found] == [("ann", 201), (None, 401), (None, 401)]
    assert "user ann" in found[1][2]
    text = people.api.get("/v1/audit").text
    assert PASSWORD not in text
    assert OTHER not in text
