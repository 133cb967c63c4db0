"""A whole service on memory drivers, for tests of what the rooms do with each other.

`--database=postgresql` runs them on a real PostgreSQL instead of SQLite, and leaves out what needs no database.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from bmi.parts import Parts
from bmi.settings import Settings
from tests.databases import Cluster, cluster, sqlite
from tests.service import Site, memory_parts, memory_settings, serving


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--database",
        choices=("sqlite", "postgresql"),
        default="sqlite",
        help="what the tests that need a database run on",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--database") == "sqlite":
        return
    wanted = [item for item in items if "database_url" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=[item for item in items if item not in wanted])
    items[:] = wanted


@pytest.fixture(scope="session")
def postgres(request: pytest.FixtureRequest) -> Iterator[Cluster | None]:
    """Give one server for all tests; None where they run on SQLite."""
    if request.config.getoption("--database") == "sqlite":
        yield None
        return
    with cluster() as server:
        yield server


@pytest.fixture
def database_url(postgres: Cluster | None, tmp_path: Path) -> Iterator[str]:
    """Give a database of the test's own, with the service's tables."""
    if postgres is None:
        yield sqlite(tmp_path / "state" / "bmi.db")
    else:
        with postgres.database() as url:
            yield url


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return memory_settings(tmp_path, database_url)


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    """Give the parts of a service on memory drivers."""
    with memory_parts(settings) as made:
        yield made


@pytest.fixture
def api(parts: Parts, settings: Settings) -> Iterator[TestClient]:
    """Give the service's API with the first admin's token."""
    with serving(parts, settings) as client:
        yield client


@pytest.fixture
def site(api: TestClient, parts: Parts, tmp_path: Path) -> Site:
    return Site(api, parts, tmp_path)
