"""A little of what `make security` does, and that it can find something."""

from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from fastapi import FastAPI, Response
from fastapi.testclient import TestClient

from bmi.access import service as access
from bmi.api.access import Role
from tests.databases import sqlite
from tests.security.fuzz import fuzz
from tests.security.linters import bandit
from tests.security.units import REACHED, UNITS, units
from tests.security.walk import make_things, walk
from tests.service import Site, memory_site


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with memory_site(tmp_path, sqlite(tmp_path / "state" / "bmi.db")) as made:
        yield made


def test_a_manager_finds_no_answer_that_is_not_described(site: Site) -> None:
    things = make_things(site.api, site)
    told = fuzz(site.api, {"manager": things.tokens[Role.MANAGER]}, things.of["red"], examples=3)
    assert told.findings == {}
    assert told.cases > told.operations > 70
    assert {200, 202, 404, 422} <= set(told.statuses)


def test_a_crash_and_an_answer_without_description_are_found() -> None:
    app = FastAPI()

    @app.get("/crash")
    def crash(length: int) -> int:
        return 1 // (length - length)

    @app.get("/teapot")
    def teapot() -> Response:
        return Response(status_code=418)

    told = fuzz(TestClient(app), {"someone": "secret"}, {}, examples=3)
    assert [name for name in told.findings if "/crash" in name and "500" in name]
    assert [name for name in told.findings if "/teapot" in name and "418" in name]


def test_what_nobody_refuses_is_found(site: Site) -> None:
    things = make_things(site.api, site)
    with patch.object(access, "authorize"), patch.object(access, "_home", return_value=None):
        wrong = "\n".join(walk(site.api, things)[0])
    assert "GET /v1/disks/{disk} as token of a viewer, blue: 200, not 404" in wrong
    assert "/snapshot as token of a viewer, red: " in wrong


def test_the_code_linter_finds_what_is_not_accepted() -> None:
    assert bandit().findings == []
    with patch.dict("tests.security.linters.ACCEPTED", clear=True):
        assert len(bandit().findings) > 5


def test_the_units_are_as_tight_as_they_were() -> None:
    told = units()
    assert told.findings == []
    assert told.checks == 11
    page = (UNITS.parents[1] / "docs" / "install.md").read_text()
    assert {name: figure for name, figure in REACHED.items() if f"| {name} | {figure} |" not in page} == {}


def test_a_looser_unit_and_a_broken_one_are_found(tmp_path: Path) -> None:
    for unit in UNITS.iterdir():
        text = unit.read_text()
        if unit.name == "bmi-api.service":
            text = text.replace("ProtectSystem=strict", "ProtectSystem=no").replace(
                "[Install]", "Wnats=x\n[Install]"
            )
        (tmp_path / unit.name).write_text(text)
    (tmp_path / "bmi-worker.service").unlink()
    wrong = "\n".join(units(tmp_path).findings)
    assert "bmi-api.service: exposure 1." in wrong
    assert "Unknown key 'Wnats'" in wrong
    assert "bmi-worker.service: there is no such unit" in wrong
