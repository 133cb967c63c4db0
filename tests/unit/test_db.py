from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import select

from bmi import tables
from bmi.access.models import Project
from bmi.db import Db, Table, page
from bmi.errors import BadRequest, SettingsInvalid


@pytest.fixture
def db(tmp_path: Path) -> Db:
    found = Db(f"sqlite:///{tmp_path / 'bmi.db'}")
    found.upgrade()
    return found


def test_migrations_make_exactly_the_tables_of_the_code(db: Db) -> None:
    assert tables
    with db.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []
    db.close()


def test_upgrading_again_changes_nothing(db: Db) -> None:
    with db.write() as session:
        session.add(Project(name="kept"))
    db.upgrade()
    db.check()
    with db.read() as session:
        assert session.scalars(select(Project.name)).all() == ["kept"]
    db.close()


def test_a_schema_that_is_not_ours_is_refused(tmp_path: Path) -> None:
    db = Db(f"sqlite:///{tmp_path / 'empty.db'}")
    with pytest.raises(SettingsInvalid, match="schema none"):
        db.check()
    db.close()


def test_pages_follow_each_other_without_gap_or_overlap(db: Db) -> None:
    names = [f"p{number}" for number in range(7)]
    for name in names:
        with db.write() as session:
            session.add(Project(name=name))
    seen: list[str] = []
    cursor: str | None = None
    with db.read() as session:
        while True:
            rows, cursor = page(session, select(Project), Project, limit=3, cursor=cursor)
            seen += [row.name for row in rows]
            if cursor is None:
                break
        assert seen == names
        with pytest.raises(BadRequest, match="cursor"):
            page(session, select(Project), Project, limit=3, cursor="not-a-cursor")
    db.close()


def test_an_error_rolls_everything_back(db: Db) -> None:
    with pytest.raises(RuntimeError), db.write() as session:
        session.add(Project(name="gone"))
        session.flush()
        raise RuntimeError
    with db.read() as session:
        assert session.scalars(select(Project)).all() == []
    db.close()
