"""The lab's PostgreSQL: comes up from every state that a crash can leave, and leaves nothing behind."""

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from bmi import processes
from bmi.errors import CommandFailed, PortTaken
from bmi.lab.postgres import Postgres
from tests.databases import free_port, server_folder


@pytest.fixture
def server() -> Iterator[Postgres]:
    folder = server_folder()
    made = Postgres(folder / "pg", free_port(), fast=True)
    yield made
    made.down()
    assert list(folder.iterdir()) == []
    folder.rmdir()


def query(server: Postgres, statement: str) -> object:
    with psycopg.connect(server.url, autocommit=True) as connection:
        found = connection.execute(statement)
        return found.fetchall() if found.description else None


def running(server: Postgres) -> list[psutil.Process]:
    """All processes of the server's user that work in its folder."""
    return [
        process
        for process in psutil.process_iter(["username", "cmdline", "status"])
        if process.info["username"] == "postgres"
        and process.info["status"] != psutil.STATUS_ZOMBIE
        and str(server.folder) in " ".join(process.info["cmdline"] or [])
    ]


def test_a_life_of_the_server(server: Postgres) -> None:
    server.up()
    assert server.alive()
    assert query(server, "SELECT current_user, usesuper FROM pg_user WHERE usename = current_user") == [
        ("bmi", False)
    ]
    query(server, "CREATE TABLE kept (i int)")
    (before,) = running(server)
    server.up()
    assert running(server) == [before]

    server.stop()
    assert not server.alive()
    with pytest.raises(psycopg.OperationalError):
        query(server, "SELECT 1")
    server.start()
    assert query(server, "SELECT * FROM kept") == []

    server.kill()
    assert running(server) == []
    server.up()
    assert query(server, "SELECT * FROM kept") == []

    server.down()
    server.down()
    assert running(server) == []
    assert not server.folder.exists()


def shared_memory() -> set[str]:
    """What there is of the kinds of shared memory that stay when the processes that use them are gone."""
    segments = Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    return {line.split()[1] for line in segments} | {path.name for path in Path("/dev/shm").glob("Postgre*")}


def test_a_server_that_was_killed_leaves_no_shared_memory(server: Postgres) -> None:
    before = shared_memory()
    server.up()
    assert query(server, "SELECT 1") == [(1,)]
    server.kill()
    server.down()
    assert shared_memory() <= before


def test_no_secret_is_in_an_argument_and_the_password_is_needed(server: Postgres) -> None:
    server.up()
    password = server.password_file.read_text().strip().rpartition(":")[2]
    assert len(password) > 20
    assert server.password_file.stat().st_mode & 0o077 == 0
    assert password not in server.url
    (process,) = running(server)
    assert password not in " ".join(process.cmdline())
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(server.url.replace("passfile=", "application_name="), password="wrong")


def test_what_a_crash_left_is_completed(server: Postgres) -> None:
    server.up()
    # As if the one that brought it up had died in initdb, and an earlier one before it wrote the record.
    server.stop()
    shutil.rmtree(server.folder / "data")
    (server.folder / "data.part").mkdir()
    (server.folder / "data.part" / "PG_VERSION").write_text("15\n")
    server.up()
    assert query(server, "SELECT 1") == [(1,)]
    assert not (server.folder / "data.part").exists()

    (server.folder / "postgres.json").unlink()
    (before,) = running(server)
    server.up()
    assert running(server) == [before]

    server.sql("DROP DATABASE bmi")
    server.sql("DROP ROLE bmi")
    server.up()
    assert query(server, "SELECT 1") == [(1,)]


def test_a_stale_pid_file_names_nobody_elses_process(server: Postgres) -> None:
    server.up()
    pid_file = server.folder / "data" / "postmaster.pid"
    left = pid_file.read_text().splitlines()
    server.kill()
    pid_file.write_text("\n".join([str(psutil.Process().pid), *left[1:]]))
    assert not server.alive()
    pid_file.unlink()


def test_the_record_is_found_below_the_labs_folder(server: Postgres) -> None:
    server.up()
    (found,) = processes.recorded_below(server.folder.parent)
    assert [found.pid] == [process.pid for process in running(server)]


def test_a_port_that_is_taken_is_named(server: Postgres) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", server.port))
        other.listen()
        with pytest.raises(PortTaken, match=f"port {server.port}"):
            server.up()
    server.up()


def test_a_server_that_cannot_start_says_why(server: Postgres) -> None:
    server.up()
    server.stop()
    with (server.folder / "data" / "postgresql.conf").open("a") as settings:
        settings.write("no_such_setting = 1\n")
    with pytest.raises(CommandFailed, match="no_such_setting"):
        server.start()


def test_statements_that_fail_are_errors(server: Postgres) -> None:
    server.up()
    with pytest.raises(CommandFailed, match="no_such_table"):
        server.sql("SELECT * FROM no_such_table")
