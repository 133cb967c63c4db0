"""How the database is reached: its URL, what its driver is told, and what its errors mean."""

import contextlib
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import URL, Connection, Engine, create_engine, event, exc, make_url

from bmi.errors import DatabaseUnavailable, SettingsInvalid

CONNECT_TIMEOUT = 5  # seconds that a server gets to let a client in
BUSY_TIMEOUT = 30  # seconds that a writer waits for another one: there is one at a time
STATEMENT_TIMEOUT = 60  # seconds; no statement of the service takes one, so one that does is stuck
IDLE_TIMEOUT = 60  # seconds in a transaction without a statement, after which its process is taken for stuck
PATIENCE = 5.0  # seconds that a transaction waits for a database that does not let it begin

READING: dict[str, dict[str, Any]] = {
    "sqlite": {"bmi_reading": True},
    "postgresql": {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
}
"""Options of an engine whose transactions only read, and see one moment."""

_POOL = 5  # connections that a process keeps
_POOL_MOST = 20  # connections at the most; transactions are short, so that dozens of threads can share them
_POOL_TIMEOUT = 10  # seconds that a thread waits for one of them
_LONG_KEPT = 2  # connections kept for the next lock, because a new one costs several ms
_FIRST_PAUSE = 0.05  # seconds between two tries to begin a transaction; doubled up to the longest
_LONGEST_PAUSE = 0.5

_SETTINGS = {
    # libpq's, https://www.postgresql.org/docs/current/libpq-connect.html; those in the URL win.
    "connect_timeout": str(CONNECT_TIMEOUT),
    "application_name": "bmi",
    # A server whose host died is noticed after 25 s, also while nothing is sent.
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",
}
_SESSION = {
    "timezone": "UTC",
    "statement_timeout": f"{STATEMENT_TIMEOUT}s",
    "lock_timeout": f"{BUSY_TIMEOUT}s",
    "idle_in_transaction_session_timeout": f"{IDLE_TIMEOUT}s",
    # The same for a client whose host died: what it locks is free again after 25 s.
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
_SECRETS = ("password", "sslpassword")
_DRIVERS = {"postgresql", "postgres", "postgresql+psycopg"}

_NEXT = "check that the database runs and that database.url in the settings is right"
_BUSY = "try again; if it stays so, look at what the database is busy with"

# https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNAVAILABLE_CLASSES = ("08", "53", "57P", "58")  # connection, resources, operator's intervention, system
_UNAVAILABLE = {
    "25006": "it only lets read",  # a stand-by, or a server that was just demoted
    "25P03": "it ended a transaction that was idle for too long",
    "40001": "two transactions met",
    "40P01": "two transactions waited for each other",
    "55P03": "another transaction held a lock for too long",
    "57014": "a statement took too long",
}
# https://www.sqlite.org/rescode.html: busy, locked, read-only, I/O, full, cannot open, not a database, corrupt
_SQLITE_UNAVAILABLE = {5, 6, 8, 10, 11, 13, 14, 26}


def parse(text: str) -> URL:
    """Return the setting `database.url` as SQLAlchemy takes it.

    Raises:
        SettingsInvalid: It is no URL of SQLite or PostgreSQL, or the password file that it names cannot be used.
    """
    wrong = SettingsInvalid(
        "setting database.url cannot be used",
        next_step="write postgresql://USER@HOST/DATABASE or sqlite:////PATH; special characters as %XX",
    )
    try:
        url = make_url(text)
    except (exc.ArgumentError, ValueError):
        # Neither the text nor the cause goes into the error: a part of it may be the password.
        raise wrong from None
    if url.drivername == "sqlite":
        return url
    if url.drivername not in _DRIVERS or not url.database:
        raise wrong
    passfile = url.query.get("passfile")
    if isinstance(passfile, str):
        _check_password_file(Path(passfile))
    query: dict[str, str | tuple[str, ...]] = {**_SETTINGS, **url.query}
    return url.set(drivername="postgresql+psycopg", query=query)


def shown(url: URL) -> str:
    """Return a URL as it may be printed: without passwords, and without what BMI added."""
    query = {
        name: value
        for name, value in url.query.items()
        if name not in _SECRETS and _SETTINGS.get(name) != value
    }
    # Not URL.set(): there, None leaves a part as it is.
    printed = URL.create(
        url.drivername.partition("+")[0],
        username=url.username,
        host=url.host,
        port=url.port,
        database=url.database,
        query=query,
    )
    return printed.render_as_string(hide_password=False).replace("%2F", "/")


def for_commands(url: URL) -> URL:
    """Return a URL whose connections the server lists as those of a command, not of a running service."""
    return url.update_query_dict({"application_name": "bmi db"}) if url.drivername != "sqlite" else url


def open_engine(url: URL) -> Engine:
    """Return the engine for transactions; nothing is connected yet."""
    if url.drivername == "sqlite":
        engine = create_engine(url, connect_args={"timeout": BUSY_TIMEOUT, "check_same_thread": False})
        event.listen(engine, "connect", _configure_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    return create_engine(
        url,
        connect_args={"options": _options(url, _SESSION)},
        pool_size=_POOL,
        max_overflow=_POOL_MOST - _POOL,
        pool_timeout=_POOL_TIMEOUT,
        pool_use_lifo=True,
        pool_pre_ping=True,  # after a restart of the server the pool is full of dead connections
    )


def open_long_engine(url: URL) -> Engine:
    """Return an engine for connections that are held long, outside the pool of transactions; PostgreSQL only.

    Whoever holds one needs another for transactions. From one bounded pool, enough holders would wait for ever.
    """
    session = _SESSION | {"statement_timeout": "0", "idle_in_transaction_session_timeout": "0"}
    return create_engine(
        url,
        connect_args={"options": _options(url, session)},
        pool_size=_LONG_KEPT,
        max_overflow=-1,
        pool_use_lifo=True,
        pool_pre_ping=True,
    )


def unavailable(error: exc.SQLAlchemyError, url: URL) -> DatabaseUnavailable | None:
    """Return what an error says about the database; None if it is about a statement."""
    if isinstance(error, exc.TimeoutError):  # of the pool
        return _unavailable(url, f"all {_POOL_MOST} connections were busy for {_POOL_TIMEOUT} s", _BUSY)
    if not isinstance(error, exc.DBAPIError) or error.orig is None:
        return None
    state = getattr(error.orig, "sqlstate", None)
    lite = getattr(error.orig, "sqlite_errorcode", None)
    # Lines that begin with a tab are libpq's guesses at the reason.
    said = "; ".join(line for line in str(error.orig).strip().splitlines() if not line.startswith("\t"))
    if state in _UNAVAILABLE:
        return _unavailable(url, _UNAVAILABLE[state], _BUSY)
    if lite is not None:
        return _unavailable(url, said, _BUSY) if lite & 0xFF in _SQLITE_UNAVAILABLE else None
    if state is not None and not state.startswith(_UNAVAILABLE_CLASSES):
        # A log-in that was refused has a state too, and no statement.
        return _unavailable(url, said, _NEXT) if state[:2] in ("28", "3D") else None
    lost = error.connection_invalidated or isinstance(error, exc.OperationalError | exc.InterfaceError)
    return _unavailable(url, said, _NEXT) if lost else None


@contextlib.contextmanager
def translated(url: URL) -> Iterator[None]:
    """Turn errors of a database that cannot be used into `DatabaseUnavailable`; let all others pass.

    Also those of connections outside of SQLAlchemy's pools.
    """
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise _unavailable(url, str(error).strip().partition("\n")[0], _NEXT) from error
    except exc.SQLAlchemyError as error:
        if found := unavailable(error, url):
            raise found from error
        raise


def connect_patiently(engine: Engine, patience: float) -> Connection:
    """Return a connection that works, also when the server is just restarting.

    Nothing is begun on it yet, so nothing can happen twice.

    Args:
        engine: What to connect.
        patience: Seconds to try for; the last try may take its time-out on top.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: There was none in time.
    """
    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            return engine.connect()
        except exc.DBAPIError as error:
            if not _may_pass(error) or time.monotonic() + pause > end:
                raise
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)


def _may_pass(error: exc.DBAPIError) -> bool:
    """Say whether a server that could not be reached may be there a moment later."""
    if getattr(error.orig, "sqlite_errorcode", None) is not None:
        return False  # SQLite waits by itself
    state = getattr(error.orig, "sqlstate", None)
    return state.startswith(("08", "57P")) if state else isinstance(error, exc.OperationalError)


def _unavailable(url: URL, why: str, next_step: str) -> DatabaseUnavailable:
    return DatabaseUnavailable(f"the database {shown(url)} cannot be used: {why}", next_step=next_step)


def _options(url: URL, session: dict[str, str]) -> str:
    """Return libpq's `options`; the operator's own come last and win."""
    own = url.query.get("options")
    ours = " ".join(f"-c {name}={value}" for name, value in session.items())
    return f"{ours} {own}" if isinstance(own, str) else ours


def _check_password_file(path: Path) -> None:
    """Refuse a password file that libpq would leave aside, with a warning that nobody sees."""
    try:
        mode = path.stat().st_mode
        path.open().close()
    except OSError as error:
        raise SettingsInvalid(
            f"the password file {path} of setting database.url cannot be read: {error.strerror}",
            next_step="check its path, owner and mode",
        ) from error
    if not stat.S_ISREG(mode) or mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise SettingsInvalid(
            f"the password file {path} of setting database.url can be read by others",
            next_step=f"chmod 600 {path}",
        )


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader and writes later fails when another one wrote in between.
    reading = connection.get_execution_options().get("bmi_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")
