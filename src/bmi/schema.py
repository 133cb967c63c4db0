"""The form of the tables: which one a database has, which one this release needs, and how it gets there."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import IO, Any, cast

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, func, inspect, select, text

from bmi import connect
from bmi.db import Db, lock_number
from bmi.errors import DeadlineExceeded, InUse, SettingsInvalid
from bmi.wait import wait_until

_MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_DEADLINE = 600  # seconds that one who upgrades or starts waits for another one's upgrade
_LEAVE_DEADLINE = 2.0  # seconds in which the server notices that a client has left
_KEY = "bmi schema"
_PROGRAMS_OF_A_SERVICE = ("bmi", "dbos_transact")  # what its connections call themselves


class State(StrEnum):
    """What a database is to this release."""

    EMPTY = "empty"
    CURRENT = "current"
    OLD = "old"
    UNKNOWN = "unknown"
    """Made by a newer release, or by another program."""
    FOREIGN = "foreign"
    """It has tables, and none of them says which form they have."""


@dataclass(frozen=True)
class Schema:
    """The form of a database's tables."""

    found: str | None
    """Revision that it has."""
    needed: str
    """Revision that this release needs."""
    state: State


@dataclass(frozen=True)
class Upgrade:
    """What an upgrade did."""

    before: Schema
    steps: tuple[str, ...]
    """A line for each step, oldest first; none if there was nothing to do."""
    backup: Path | None
    """The database as it was before; SQLite only."""

    @property
    def remark(self) -> str:
        """What a log adds."""
        return f"; as it was before, it is kept in {self.backup}" if self.backup else ""


def look(db: Db) -> Schema:
    """Say which form the tables have.

    Raises:
        DatabaseUnavailable: The database does not answer.
    """
    with connect.translated(db.url), connect.connect_patiently(db.engine, connect.PATIENCE) as connection:
        return _look(connection)


def require(db: Db) -> None:
    """Refuse a database whose tables do not have the form that this release needs.

    Raises:
        SettingsInvalid: They do not; the error names both forms and what mends it.
        DatabaseUnavailable: The database does not answer.
    """
    _require(db, look(db))


def open_for_service(db: Db) -> Upgrade | None:
    """Make a database ready for a service that starts, where that is safe without asking, or refuse it.

    An empty database gets its tables. An old SQLite file is upgraded, after a copy of it was made: it has one
    service, this one. An old PostgreSQL database may have several, so that somebody has to decide when.

    Returns:
        What was done; None if there was nothing to do.

    Raises:
        SettingsInvalid: The tables do not have the form that this release needs.
        InUse: The SQLite file is old, and another process uses it.
        DatabaseUnavailable: The database does not answer.
    """
    found = look(db)
    done = None
    if found.state is State.EMPTY or (db.sqlite and found.state is State.OLD):
        done = upgrade(db)
    else:
        _require(db, found)
    if file := _file(db):
        db.hold(_in_use(file, exclusive=False))
    with _transaction(db, shared=True) as connection:  # waits for an upgrade that is under way
        _require(db, _look(connection))
    return done


def upgrade(db: Db) -> Upgrade:
    """Bring the tables to the form that this release needs, all steps or none.

    Raises:
        SettingsInvalid: This release does not know the form that they have.
        InUse: A service uses them.
        DatabaseUnavailable: The database does not answer.
    """
    found = look(db)
    if found.state not in (State.EMPTY, State.OLD):
        _require(db, found)
        return Upgrade(found, (), None)
    file = _file(db)
    if file is None:
        return _upgrade(db, backup=None)
    with _in_use(file, exclusive=True):
        found = look(db)
        backup = _back_up(file, found) if found.state is State.OLD else None
        return _upgrade(db, backup=backup)


def revisions() -> list[str]:
    """Return all forms that this release knows, oldest first."""
    return [script.revision for script in reversed(list(_scripts().walk_revisions()))]


def upgrade_to(db: Db, revision: str) -> None:
    """Bring the tables to an older form than this release needs; for tests of upgrades."""
    with _transaction(db) as connection:
        command.upgrade(_alembic(connection), revision)


def _upgrade(db: Db, *, backup: Path | None) -> Upgrade:
    with _transaction(db) as connection:
        before = _look(connection)
        if before.state in (State.UNKNOWN, State.FOREIGN):
            _require(db, before)
        if before.state is State.CURRENT:
            return Upgrade(before, (), None)
        if before.state is State.OLD and not db.sqlite:
            _refuse_services(db, connection)
        command.upgrade(_alembic(connection), "head")
        if db.sqlite and (broken := connection.execute(text("PRAGMA foreign_key_check")).first()):
            raise AssertionError(f"the upgrade left rows of table {broken[0]} that refer to nothing")
        return Upgrade(before, tuple(_steps(before)), backup)


def _look(connection: Connection) -> Schema:
    needed = _scripts().get_current_head()
    if needed is None:
        raise AssertionError("there are migrations")
    context = MigrationContext.configure(connection)
    heads = context.get_current_heads()
    if not heads:
        others = [name for name in inspect(connection).get_table_names() if name != context.version_table]
        return Schema(None, needed, State.FOREIGN if others else State.EMPTY)
    found = ", ".join(heads)
    if found == needed:
        return Schema(found, needed, State.CURRENT)
    return Schema(found, needed, State.OLD if found in revisions() else State.UNKNOWN)


def _require(db: Db, schema: Schema) -> None:
    if schema.state is State.CURRENT:
        return
    next_step = {
        State.EMPTY: "make its tables: bmi db upgrade",
        State.OLD: "stop all services that use it, make a backup, then: bmi db upgrade",
        State.UNKNOWN: "start the release that it was made by, or restore a backup",
        State.FOREIGN: "name a database of BMI's own in the setting database.url",
    }[schema.state]
    known = {
        State.OLD: " (an older release made it)",
        State.UNKNOWN: " (a newer release or another program made it)",
        State.FOREIGN: ", but tables of something else",
    }.get(schema.state, "")
    found = f"schema {schema.found}" if schema.found else "no schema of BMI"
    raise SettingsInvalid(
        f"the database {db.name} has {found}{known}, this release needs schema {schema.needed}",
        next_step=next_step,
    )


def _refuse_services(db: Db, connection: Connection) -> None:
    """Refuse to change tables under a running service.

    A service that starts now waits for our lock, and one that started earlier has kept the connection that it
    looked with.
    """
    query = text(
        "SELECT DISTINCT coalesce(host(client_addr), 'this host') FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = ANY(:names)"
    )

    def hosts() -> list[str]:
        connection.execute(select(func.pg_stat_clear_snapshot()))
        found = connection.execute(query, {"names": list(_PROGRAMS_OF_A_SERVICE)})
        return sorted(row[0] for row in found)

    try:
        # The server lists a client for a moment after it has left.
        wait_until(
            lambda: not hosts(),
            deadline=_LEAVE_DEADLINE,
            what="services to leave the database",
            next_step="stop them",
        )
    except DeadlineExceeded as error:
        raise InUse(
            f"the database {db.name} is used by a running service, connected from {', '.join(hosts())}",
            next_step="stop all services of the older release, then try again",
        ) from error


@contextmanager
def _transaction(db: Db, *, shared: bool = False) -> Iterator[Connection]:
    """Open the one transaction in which the form of the tables is changed, or looked at."""
    with connect.translated(db.url), connect.connect_patiently(db.engine, connect.PATIENCE) as connection:
        if db.sqlite:
            # SQLite changes a table by copying and dropping it; with enforced foreign keys, dropping it would
            # remove all rows that refer to it. The switch has no effect inside a transaction.
            raw = cast("Any", connection.connection.driver_connection)
            raw.execute("PRAGMA foreign_keys=OFF")
            try:
                with connection.begin():
                    yield connection
            finally:
                raw.execute("PRAGMA foreign_keys=ON")
            return
        with connection.begin():
            limits = {"lock_timeout": _UPGRADE_DEADLINE, "statement_timeout": 0}
            for name, seconds in limits.items():
                connection.execute(select(func.set_config(name, f"{seconds}s", True)))
            lock = func.pg_advisory_xact_lock_shared if shared else func.pg_advisory_xact_lock
            connection.execute(select(lock(lock_number(_KEY))))
            yield connection


@contextmanager
def _in_use(file: Path, *, exclusive: bool) -> Iterator[None]:
    """Show other processes that an SQLite file is in use.

    Raises:
        InUse: It is, by another one.
    """
    with _open_private(file.with_name(f"{file.name}.lock")) as lock:
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        try:
            fcntl.flock(lock, kind | fcntl.LOCK_NB)
        except BlockingIOError as error:
            doing = "used by a running service" if exclusive else "being upgraded"
            raise InUse(
                f"the database {file} is {doing}", next_step="stop the service, or wait, then try again"
            ) from error
        yield


def _open_private(path: Path) -> IO[str]:
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "w")


def _back_up(file: Path, found: Schema) -> Path:
    """Copy an SQLite file beside itself, under a name that says which form it has."""
    backup = file.with_name(f"{file.name}.schema-{found.found}")
    partial = file.with_name(f"{backup.name}.part")
    with suppress(FileNotFoundError):
        partial.unlink()
    _open_private(partial).close()
    source, copy = sqlite3.connect(file), sqlite3.connect(partial)
    try:
        source.backup(copy)
    finally:
        copy.close()
        source.close()
    partial.rename(backup)
    return backup


def _file(db: Db) -> Path | None:
    """Return the file of an SQLite database."""
    name = db.url.database if db.sqlite else None
    return Path(name) if name and name != ":memory:" else None


def _steps(before: Schema) -> Iterator[str]:
    scripts = _scripts()
    known = revisions()
    for revision in known[known.index(before.found) + 1 if before.found else 0 :]:
        yield f"{revision}: {scripts.get_revision(revision).doc.rstrip('.')}"


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(_MIGRATIONS))


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    return config
