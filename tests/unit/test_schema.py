import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from bmi import schema
from bmi.db import Db
from bmi.errors import InUse, SettingsInvalid
from bmi.schema import State

ENVIRONMENT = Path(schema.__file__).parent / "migrations" / "env.py"

FIRST = """
import sqlalchemy as sa
from alembic import op
revision, down_revision = "1", None
def upgrade():
    op.create_table("parents", sa.Column("id", sa.Integer(), primary_key=True))
    op.create_table(
        "children",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("parent", sa.Integer(), sa.ForeignKey("parents.id", ondelete="CASCADE"), nullable=False),
    )
"""
SECOND = '''"""More about parents."""
import sqlalchemy as sa
from alembic import op
revision, down_revision = "2", "1"
def upgrade():
    # A check cannot be added in place: the table is copied and dropped.
    with op.batch_alter_table("parents", recreate="always") as batch:
        batch.add_column(sa.Column("age", sa.Integer(), server_default="0"))
'''
BROKEN = """
from alembic import op
revision, down_revision = "3", "2"
def upgrade():
    op.execute("CREATE TABLE half (id INTEGER)")
    op.execute("INSERT INTO children VALUES (9, 9)")
    {rest}
"""


@pytest.fixture
def scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of migrations in which releases can be played."""
    folder = tmp_path / "migrations"
    (folder / "versions").mkdir(parents=True)
    (folder / "env.py").write_text(ENVIRONMENT.read_text())
    (folder / "versions" / "1.py").write_text(FIRST)
    monkeypatch.setattr(schema, "_MIGRATIONS", folder)
    return folder / "versions"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "bmi.db"


@pytest.fixture
def db(file: Path) -> Iterator[Db]:
    found = Db(f"sqlite:///{file}")
    yield found
    found.close()


def fill(db: Db) -> None:
    with db.write() as session:
        session.execute(text("INSERT INTO parents (id) VALUES (1)"))
        session.execute(text("INSERT INTO children VALUES (1, 1)"))


def rows(db: Db, query: str) -> list[tuple[object, ...]]:
    with db.read() as session:
        return [tuple(row) for row in session.execute(text(query))]


def test_a_service_makes_the_tables_of_an_empty_database(db: Db) -> None:
    assert schema.look(db).state is State.EMPTY
    done = schema.open_for_service(db)
    assert done
    assert done.backup is None
    assert schema.look(db).state is State.CURRENT
    assert schema.open_for_service(db) is None
    schema.require(db)


def test_a_service_upgrades_an_old_file_after_a_copy_was_made(scripts: Path, db: Db, file: Path) -> None:
    schema.upgrade(db)
    fill(db)
    (scripts / "2.py").write_text(SECOND)
    assert schema.look(db) == schema.Schema("1", "2", State.OLD)
    with pytest.raises(SettingsInvalid, match=r"has schema 1 .* needs schema 2; .* bmi db upgrade"):
        schema.require(db)
    done = schema.open_for_service(db)
    assert done
    assert done.steps == ("2: More about parents",)
    assert rows(db, "SELECT age FROM parents") == [(0,)]
    assert done.backup == file.with_name("bmi.db.schema-1")
    assert done.backup.stat().st_mode & 0o077 == 0
    with sqlite3.connect(done.backup) as backup:
        assert backup.execute("SELECT * FROM parents").fetchall() == [(1,)]
        assert backup.execute("SELECT * FROM alembic_version").fetchall() == [("1",)]
    backup.close()


def test_changing_a_table_keeps_the_rows_that_refer_to_it(scripts: Path, db: Db) -> None:
    schema.upgrade(db)
    fill(db)
    (scripts / "2.py").write_text(SECOND)
    schema.upgrade(db)
    assert rows(db, "SELECT * FROM children") == [(1, 1)]
    # Afterwards references are watched again.
    with db.write() as session:
        session.execute(text("DELETE FROM parents"))
    assert rows(db, "SELECT * FROM children") == []


@pytest.mark.parametrize("rest", ["pass", "raise RuntimeError"])
def test_an_upgrade_that_fails_changes_nothing(scripts: Path, db: Db, rest: str) -> None:
    schema.upgrade(db)
    fill(db)
    (scripts / "2.py").write_text(SECOND)
    (scripts / "3.py").write_text(BROKEN.format(rest=rest))
    with pytest.raises((AssertionError, RuntimeError)):  # a row that refers to nothing, or the error itself
        schema.upgrade(db)
    assert schema.look(db).found == "1"
    assert rows(db, "SELECT * FROM parents") == [(1,)]
    assert rows(db, "SELECT name FROM sqlite_master WHERE name = 'half'") == []


def test_a_newer_or_foreign_database_is_refused_and_not_touched(scripts: Path, db: Db) -> None:
    (scripts / "2.py").write_text(SECOND)
    schema.upgrade(db)
    (scripts / "2.py").unlink()
    for refuse in (schema.require, schema.open_for_service, schema.upgrade):
        with pytest.raises(SettingsInvalid, match=r"has schema 2 \(a newer release .* needs schema 1"):
            refuse(db)
    with db.write() as session:
        session.execute(text("DROP TABLE alembic_version"))
    for refuse in (schema.require, schema.open_for_service, schema.upgrade):
        with pytest.raises(SettingsInvalid, match="no schema of BMI, but tables of something else"):
            refuse(db)
    assert rows(db, "SELECT count(*) FROM parents") == [(0,)]


def test_a_file_is_not_upgraded_under_a_running_service(scripts: Path, db: Db, file: Path) -> None:
    service = Db(f"sqlite:///{file}")
    schema.open_for_service(service)
    schema.open_for_service(db)  # a second one, of the same release
    db.close()
    (scripts / "2.py").write_text(SECOND)
    upgrading = Db(f"sqlite:///{file}")
    for do in (schema.upgrade, schema.open_for_service):
        with pytest.raises(InUse, match=r"bmi\.db is used by a running service; stop"):
            do(upgrading)
    assert schema.look(upgrading).found == "1"
    service.close()
    schema.upgrade(upgrading)
    upgrading.close()


def test_revisions_are_one_line(db: Db) -> None:
    # Two heads would mean that two changes were made beside each other and nobody joined them.
    schema.upgrade(db)
    assert schema.look(db).found == schema.revisions()[-1]
