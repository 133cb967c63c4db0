"""Every upgrade that a release can meet, with data, on both databases; and who may upgrade when."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from bmi import schema, tables
from bmi.db import Db, Table
from bmi.errors import InUse, SettingsInvalid
from bmi.schema import State
from tests.databases import Cluster, cluster

assert tables

DEADLINE = 60.0  # seconds
OLD = schema.revisions()[:-1]


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give an empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'bmi.db'}"
    else:
        with request.getfixturevalue("shared").database(tables=False) as made:
            yield made


@pytest.fixture
def postgresql(shared: Cluster) -> Iterator[str]:
    with shared.database(tables=False) as made:
        yield made


def fill(db: Db) -> dict[str, int]:
    """Put a row into every table that there is, whatever its columns are, and return how many each has."""
    found = sa.MetaData()
    found.reflect(db.engine)
    with db.engine.begin() as connection:
        made: dict[str, dict[str, Any]] = {}
        for table in found.sorted_tables:
            if table.name != "alembic_version":
                row = {column.name: value(column, made) for column in table.columns}
                made[table.name] = only_one(table, row)
                connection.execute(table.insert().values(made[table.name]))
    return count(db)


def value(column: sa.Column[Any], made: dict[str, dict[str, Any]]) -> Any:
    for key in column.foreign_keys:
        if key.column.table.name in made:
            return made[key.column.table.name][key.column.name]
        return None  # to its own table
    if isinstance(column.type, sa.JSON):
        return {"a": 1}
    if isinstance(column.type, sa.LargeBinary):
        return b"some bytes"
    kind = column.type.python_type
    if kind is str and getattr(column.type, "length", None) == 32 and column.name.endswith("id"):
        return uuid4().hex  # as SQLite keeps ids
    values: dict[type, Any] = {
        str: f"some {column.name}"[:32],
        int: 7,
        bool: False,
        float: 0.5,
        datetime: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return values[kind] if kind in values else uuid4()


def only_one(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    """Follow the check that a row of this table is about one thing of several."""
    if table.name == "legacy_volumes":
        row["disk_id"] = None
    return row


def count(db: Db) -> dict[str, int]:
    with db.engine.connect() as connection:
        names = [name for name in sa.inspect(connection).get_table_names() if name != "alembic_version"]
        query = "SELECT count(*) FROM {}"
        return {name: connection.execute(sa.text(query.format(name))).scalar_one() for name in names}


@pytest.mark.parametrize("revision", [None, *OLD])
def test_every_older_database_becomes_what_the_code_needs_and_loses_nothing(
    url: str, revision: str | None
) -> None:
    with closing(Db(url)) as db:
        before: dict[str, int] = {}
        if revision is not None:
            schema.upgrade_to(db, revision)
            before = fill(db)
            assert set(before.values()) == {1}
        schema.upgrade(db)
        with db.engine.connect() as connection:
            assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
        after = count(db)
        assert {name: after[name] for name in before if name in after} == before
        schema.require(db)


def test_the_filling_reaches_every_table_of_the_newest(url: str) -> None:
    with closing(Db(url)) as db:
        schema.upgrade(db)
        assert set(fill(db).values()) == {1}
        assert set(count(db)) == set(Table.metadata.tables)


def test_a_service_refuses_an_old_postgresql_and_makes_an_empty_one(postgresql: str) -> None:
    with closing(Db(postgresql)) as db:
        schema.upgrade_to(db, OLD[0])
        with pytest.raises(SettingsInvalid, match=rf"has schema {OLD[0]} .* bmi db upgrade"):
            schema.open_for_service(db)
        assert schema.look(db).state is State.OLD
        with db.engine.begin() as connection:
            connection.execute(sa.text("DROP SCHEMA public CASCADE"))
            connection.execute(sa.text("CREATE SCHEMA public"))
        done = schema.open_for_service(db)
        assert done
        assert schema.look(db).state is State.CURRENT


def test_postgresql_is_not_upgraded_under_a_running_service(postgresql: str) -> None:
    with closing(Db(postgresql, command=True)) as db, closing(Db(postgresql)) as service:
        schema.upgrade_to(db, OLD[0])
        assert schema.look(service).state is State.OLD  # a service of the older release is connected
        with pytest.raises(InUse, match=r"used by a running service, connected from 127\.0\.0\.1; stop all"):
            schema.upgrade(db)
        assert schema.look(db).state is State.OLD
        service.close()
        assert schema.upgrade(db).steps


def test_upgrades_at_the_same_time_do_not_collide(url: str, tmp_path: Path) -> None:
    config = tmp_path / "bmi.toml"
    config.write_text(f'state_dir = "{tmp_path}"\n[database]\nurl = "{url}"\n')
    with closing(Db(url, command=True)) as db:
        schema.upgrade_to(db, OLD[0])
        fill(db)
    words = [sys.executable, "-m", "bmi.cli", "db", "upgrade", "--config", str(config)]
    both = [
        subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ended = [(*process.communicate(timeout=DEADLINE), process.returncode) for process in both]
    assert sum(f"schema {OLD[0]} -> {schema.revisions()[-1]}" in out for out, _, _ in ended) == 1
    for out, err, status in ended:
        # The other one finds it done, or on SQLite in the hands of the first.
        assert status == 0 or "in use" in err or "is used by" in err, (out, err)
    with closing(Db(url)) as db:
        schema.require(db)
        assert set(count(db).values()) >= {1}


def test_services_that_start_at_the_same_time_make_the_tables_once(postgresql: str) -> None:
    program = (
        "import sys; from bmi import schema; from bmi.db import Db; schema.open_for_service(Db(sys.argv[1]))"
    )
    words = [sys.executable, "-c", program, postgresql]
    starting = [subprocess.Popen(words, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    ended = [(process.communicate(timeout=DEADLINE)[1], process.returncode) for process in starting]
    assert [status for _, status in ended] == [0, 0, 0], ended
    with closing(Db(postgresql)) as db:
        schema.require(db)
