"""Databases for tests: a PostgreSQL server of the test run's own, and a database for each test."""

import shutil
import socket
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import count
from pathlib import Path

from dbos import DBOS

from bmi import connect, schema
from bmi.db import Db
from bmi.lab.postgres import Postgres

_TEMPLATE = "bmi_template"
_numbers = count(1)


@dataclass
class Cluster:
    """A server, and a template with all tables, which databases are copied from."""

    server: Postgres

    @contextmanager
    def database(self, *, tables: bool = True) -> Iterator[str]:
        """Give the URL of a new database, which is removed afterwards, whoever is still connected.

        Args:
            tables: Whether it has the service's and the engine's tables; empty without.
        """
        name = f"test_{next(_numbers)}"
        self.server.sql(
            f"CREATE DATABASE {name} OWNER bmi TEMPLATE {self._template if tables else 'template0'}"
        )
        try:
            yield self.server.url_of(name)
        finally:
            self.server.sql(f"DROP DATABASE {name} WITH (FORCE)")

    @cached_property
    def _template(self) -> str:
        self.server.sql(f"CREATE DATABASE {_TEMPLATE} OWNER bmi")
        url = self.server.url_of(_TEMPLATE)
        db = Db(url)
        schema.upgrade(db)
        db.close()
        DBOS.migrate(connect.parse(url).render_as_string(hide_password=False))
        return _TEMPLATE


def server_folder() -> Path:
    """Make a folder that user postgres can enter, which pytest's own folders are not."""
    folder = Path(tempfile.mkdtemp(prefix="bmi-pg-"))
    folder.chmod(0o711)
    return folder


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Run a server that does not wait for its disk."""
    folder = server_folder()
    server = Postgres(folder / "pg", free_port(), fast=True)
    try:
        server.up()
        yield Cluster(server)
    finally:
        server.down()
        shutil.rmtree(folder)


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def sqlite(file: Path) -> str:
    """Make an SQLite file with the service's tables, and return its URL."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(_empty_file())
    return f"sqlite:///{file}"


@cache
def _empty_file() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "bmi.db"
        db = Db(f"sqlite:///{file}")
        schema.upgrade(db)
        db.close()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return file.read_bytes()
