"""Every route, as every role, on what is the caller's own and on what is another project's."""

import contextvars
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from bmi.access.policy import Action, Caller, authorize, declare
from bmi.access.rules import asks, rules
from bmi.errors import UndeclaredAction
from tests.security.table import access_table
from tests.security.walk import REQUESTS, Things, make_things, walk


def test_a_route_without_a_rule_or_with_two_stops_the_service() -> None:
    app = FastAPI(openapi_url=None)
    app.get("/bare")(lambda: None)
    with pytest.raises(RuntimeError, match="/bare declares 0 rules"):
        rules(app.routes)
    app = FastAPI(openapi_url=None)
    app.get("/two", dependencies=[asks(Action.NODE_READ), asks(Action.NODE_USE)])(lambda: None)
    with pytest.raises(RuntimeError, match="/two declares 2 rules"):
        rules(app.routes)
    app = FastAPI(openapi_url=None)
    app.mount("/files", FastAPI())
    with pytest.raises(RuntimeError, match="/files declares 0 rules"):
        rules(app.routes)


def test_what_a_route_did_not_declare_is_refused_to_an_admin_too() -> None:
    def ask(action: Action) -> None:
        declare({Action.NODE_READ})
        authorize(Caller("t", admin=True), action, None, thing="x")

    contextvars.copy_context().run(ask, Action.NODE_READ)
    with pytest.raises(UndeclaredAction, match=r"node\.use"):
        contextvars.copy_context().run(ask, Action.NODE_USE)
    authorize(Caller("t", admin=True), Action.NODE_USE, None, thing="x")


@pytest.fixture
def things(api: TestClient, site: Any) -> Things:
    return make_things(api, site)


def test_every_route_has_a_request(api: TestClient) -> None:
    assert isinstance(api.app, FastAPI)
    assert set(REQUESTS) == set(rules(api.app.routes))


def test_every_route_as_every_role(api: TestClient, things: Things) -> None:
    wrong, checks = walk(api, things)
    assert not wrong, "\n".join([f"{checks} checks", *wrong])
    assert checks > 400


def test_the_page_on_who_may_do_what_is_current(api: TestClient) -> None:
    assert isinstance(api.app, FastAPI)
    page = Path(__file__).parents[3] / "docs" / "access-rules.md"
    assert page.read_text() == access_table(rules(api.app.routes)), "make security writes it"
