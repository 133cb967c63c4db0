import sqlite3
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from bmi.connect import parse, shown
from bmi.db import Db
from bmi.errors import DatabaseUnavailable, SettingsInvalid


@pytest.mark.parametrize("scheme", ["postgresql", "postgresql+psycopg", "postgres"])
def test_all_ways_to_write_postgresql_are_one(scheme: str) -> None:
    url = parse(f"{scheme}://bmi:se%2Fcret@db.example:5433/bmi?sslmode=require&application_name=x")
    assert url.drivername == "postgresql+psycopg"
    assert (url.username, url.password, url.host, url.port, url.database) == (
        *("bmi", "se/cret", "db.example", 5433, "bmi"),
    )
    assert (url.query["sslmode"], url.query["application_name"]) == ("require", "x")
    assert url.query["connect_timeout"] == "5"


def test_a_socket_and_several_hosts_can_be_named() -> None:
    assert parse("postgresql:///bmi?host=/run/postgresql").query["host"] == "/run/postgresql"
    several = parse("postgresql:///bmi?host=a:5432&host=b:5432&target_session_attrs=read-write")
    assert several.query["host"] == ("a:5432", "b:5432")


def test_what_is_printed_has_no_password_and_nothing_of_ours() -> None:
    url = parse("postgresql://bmi:hunter2@db:5433/bmi?sslmode=require&password=hunter2&sslpassword=hunter2")
    assert shown(url) == "postgresql://bmi@db:5433/bmi?sslmode=require"
    assert "hunter2" not in f"{url} {url!r}".replace("password=hunter2", "")
    assert shown(parse("sqlite:////var/lib/bmi/bmi.db")) == "sqlite:////var/lib/bmi/bmi.db"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bmi.db",
        "mysql://bmi:hunter2@db/bmi",
        "postgresql+asyncpg://bmi:hunter2@db/bmi",
        "postgresql://bmi:hunter2@db",
        "postgresql://bmi:hunter2@db:hunter2/bmi",
    ],
)
def test_what_cannot_be_used_is_refused_without_being_repeated(text: str) -> None:
    with pytest.raises(SettingsInvalid, match=r"setting database\.url") as caught:
        Db(text)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_a_password_file_that_the_client_would_leave_aside_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pgpass"
    with pytest.raises(SettingsInvalid, match=r"pgpass .* cannot be read"):
        parse(f"postgresql://bmi@db/bmi?passfile={file}")
    file.write_text("*:*:*:*:hunter2\n")
    file.chmod(0o640)
    with pytest.raises(SettingsInvalid, match=r"can be read by others; chmod 600"):
        parse(f"postgresql://bmi@db/bmi?passfile={file}")
    file.chmod(0o600)
    assert parse(f"postgresql://bmi@db/bmi?passfile={file}").query["passfile"] == str(file)


def test_a_file_that_is_no_database_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "bmi.db"
    file.write_text("no database" * 100)
    db = Db(f"sqlite:///{file}")
    with (
        pytest.raises(DatabaseUnavailable, match=r"bmi\.db cannot be used: file is not a database"),
        db.read() as session,
    ):
        session.execute(text("SELECT 1"))
    db.close()


def test_a_file_that_another_program_keeps_locked_is_told_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bmi.connect.BUSY_TIMEOUT", 0.1)
    db = Db(f"sqlite:///{tmp_path / 'bmi.db'}")
    with db.write() as session:
        session.execute(text("CREATE TABLE t (i INTEGER)"))
    other = sqlite3.connect(tmp_path / "bmi.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(DatabaseUnavailable, match="database is locked") as caught, db.write() as session:
        session.execute(text("INSERT INTO t VALUES (1)"))
    assert (caught.value.status, caught.value.transient) == (503, True)
    other.close()
    db.close()


def test_a_wrong_statement_is_a_defect_and_stays_one(tmp_path: Path) -> None:
    db = Db(f"sqlite:///{tmp_path / 'bmi.db'}")
    with pytest.raises(OperationalError, match="no such table"), db.read() as session:
        session.execute(text("SELECT * FROM missing"))
    db.close()
