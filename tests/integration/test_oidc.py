"""Log-in by a real OpenID Connect provider."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from typing import Any, cast
from unittest.mock import patch
from urllib.parse import urlsplit

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from bmi.access.oidc import Provider
from bmi.api.access import Role
from bmi.cli import sso
from bmi.client import Client
from bmi.errors import LoginRefused, ProviderUnavailable
from bmi.settings import GroupRights
from bmi.vault import Vault
from tests.databases import sqlite
from tests.oidc.browser import Running, provider
from tests.service import memory_parts, memory_settings, serving

NOBODY = {"Authorization": ""}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with provider() as found:
        yield found


@pytest.fixture
def client(running: Running, tmp_path: Path) -> Provider:
    return Provider(running.settings, Vault(tmp_path / "key"))


def test_a_person_logs_in_and_has_the_rights_of_the_groups(running: Running, client: Provider) -> None:
    begun = client.begin(running.redirect_uri)
    back = running.visit(begun.url, "ann")
    found = client.finish(begun.handle, code=back["code"], state=back["state"], issuer=back.get("iss"))
    assert (found.issuer, found.name) == (running.settings.issuer, "ann")
    assert set(found.groups) == {"operators", "red-team"}
    rights = client.rights(found)
    assert (rights.admin, dict(rights.roles)) == (True, {"red": Role.MEMBER})
    with pytest.raises(LoginRefused, match="invalid_grant"):
        client.finish(begun.handle, code=back["code"], state=back["state"])


def test_one_in_no_group_is_told_so(running: Running, client: Provider) -> None:
    begun = client.begin(running.redirect_uri)
    back = running.visit(begun.url, "eve")
    found = client.finish(begun.handle, code=back["code"], state=back["state"])
    assert (found.name, found.groups) == ("eve", ())
    with pytest.raises(LoginRefused, match="eve is in no group"):
        client.rights(found)


def test_what_the_provider_gave_another_log_in_is_refused(running: Running, client: Provider) -> None:
    mine, theirs = (client.begin(running.redirect_uri) for _ in range(2))
    back = running.visit(theirs.url, "bob")
    with pytest.raises(LoginRefused, match="another log-in"):
        client.finish(mine.handle, code=back["code"], state=back["state"])
    # Whoever has a state of his own for another one's code fails at the provider, by PKCE.
    own = running.visit(mine.url, "ann")
    with pytest.raises(LoginRefused, match="invalid_grant"):
        client.finish(mine.handle, code=back["code"], state=own["state"])
    with pytest.raises(LoginRefused, match="another provider"):
        client.finish(mine.handle, code=own["code"], state=own["state"], issuer="http://localhost:1")


def test_a_wrong_password_comes_to_nothing(running: Running, client: Provider) -> None:
    begun = client.begin(running.redirect_uri)
    with pytest.raises(AssertionError, match="does not let ann in"):
        running.visit(begun.url, "ann", password="wrong")
    with pytest.raises(LoginRefused, match="invalid_grant"):
        client.finish(begun.handle, code="guessed", state=begun.url.partition("state=")[2].partition("&")[0])


def test_a_wrong_secret_of_the_client_is_refused(running: Running, tmp_path: Path) -> None:
    wrong = tmp_path / "secret"
    wrong.write_text("wrong")
    settings = running.settings.model_copy(update={"client_secret_file": wrong})
    client = Provider(settings, Vault(tmp_path / "key"))
    begun = client.begin(running.redirect_uri)
    back = running.visit(begun.url, "ann")
    with pytest.raises(LoginRefused, match="invalid_client"):
        client.finish(begun.handle, code=back["code"], state=back["state"])


def test_an_issuer_that_calls_itself_otherwise_is_not_used(running: Running, tmp_path: Path) -> None:
    settings = running.settings.model_copy(update={"issuer": running.settings.issuer + "/"})
    with pytest.raises(ProviderUnavailable, match="calls itself otherwise"):
        Provider(settings, Vault(tmp_path / "key")).begin(running.redirect_uri)


# --- the service, and the command line ------------------------------------------------------------------------


@pytest.fixture
def api(running: Running, tmp_path: Path) -> Iterator[TestClient]:
    settings = memory_settings(
        tmp_path, sqlite(tmp_path / "state" / "bmi.db"), oidc=running.settings.model_dump()
    )
    with memory_parts(settings) as parts, serving(parts, settings) as client:
        client.post("/v1/projects", json={"name": "red"})
        yield client


def logged_in(api: TestClient, running: Running, person: str) -> Any:
    begun = api.post("/v1/login/provider", json={"redirect_uri": running.redirect_uri}, headers=NOBODY).json()
    back = running.visit(begun["url"], person)
    return api.post("/v1/login/provider/finish", json={"handle": begun["handle"], **back}, headers=NOBODY)


def identity(api: TestClient, answer: Any) -> Any:
    assert answer.status_code == 201, answer.text
    return api.get("/v1/whoami", headers={"Authorization": f"Bearer {answer.json()['secret']}"}).json()


def test_groups_of_the_provider_are_roles_here_and_go_with_it(api: TestClient, running: Running) -> None:
    ann = identity(api, logged_in(api, running, "ann"))
    assert (ann["name"], ann["admin"], ann["roles"]) == ("ann", True, {"red": "member"})
    bob = identity(api, logged_in(api, running, "bob"))
    assert (bob["admin"], bob["roles"]) == (False, {"red": "member"})
    refused = logged_in(api, running, "eve")
    assert (refused.status_code, refused.json()["code"]) == (401, "login-refused")

    # What a group no longer gives is gone at the next log-in; what a manager has given stays.
    assert api.put("/v1/projects/red/members/bob", json={"role": "manager"}).status_code == 200
    assert identity(api, logged_in(api, running, "bob"))["roles"] == {"red": "manager"}
    provider = cast("FastAPI", api.app).state.service.provider
    fewer = running.settings.model_copy(
        update={"groups": {"operators": GroupRights(), "red-team": GroupRights()}}
    )
    provider._settings = fewer
    ann = identity(api, logged_in(api, running, "ann"))
    assert (ann["admin"], ann["roles"]) == (False, {})
    assert identity(api, logged_in(api, running, "bob"))["roles"] == {"red": "manager"}


def test_who_is_disabled_here_or_has_another_ones_name_does_not_get_in(
    api: TestClient, running: Running
) -> None:
    api.post("/v1/users", json={"name": "bob", "password": "a long and secret word"})
    refused = logged_in(api, running, "bob")
    assert (refused.status_code, "another user bob" in refused.json()["detail"]) == (401, True)
    api.delete("/v1/users/bob")
    assert logged_in(api, running, "bob").status_code == 201
    assert api.get("/v1/users/bob").json()["provider"] == running.settings.issuer
    for method, path, body in (
        ("PUT", "/v1/users/bob/password", {"password": "a long and secret word"}),
        ("PATCH", "/v1/users/bob", {"admin": True}),
    ):
        assert api.request(method, path, json=body).status_code == 400
    assert api.post("/v1/login", json={"name": "bob", "password": running.password}).status_code == 401
    assert api.patch("/v1/users/bob", json={"disabled": True}).status_code == 200
    refused = logged_in(api, running, "bob")
    assert (refused.status_code, refused.json()["detail"]) == (401, "user bob is disabled")


def test_a_person_logs_in_from_the_command_line(
    api: TestClient, running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    port = urlsplit(running.redirect_uri).port
    shown: SimpleQueue[str] = SimpleQueue()
    with (
        Client("http://testserver", transport=api._transport) as bmi,
        patch("bmi.cli.sso.output.note", shown.put),
        ThreadPoolExecutor(1) as threads,
    ):
        session = threads.submit(sso.log_in, bmi, port=port or 0, browser=False)
        url = shown.get(timeout=30).split()[-1]
        assert httpx2.get(running.redirect_uri + "favicon.ico", trust_env=False).status_code == 404
        back = running.visit(url, "ann")
        page = httpx2.get(running.redirect_uri, params=back, trust_env=False)
        assert (page.status_code, "command line" in page.text) == (200, True)
        assert session.result(timeout=60).user == "ann"
