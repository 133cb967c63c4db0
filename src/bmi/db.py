"""The database: one engine per process, one session per unit of work."""

import enum
import hashlib
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar, cast
from uuid import UUID

import psycopg
from sqlalchemy import (
    JSON,
    DateTime,
    Dialect,
    Enum,
    MetaData,
    Select,
    TypeDecorator,
    Uuid,
    event,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.pool import ConnectionPoolEntry

from bmi import connect
from bmi.errors import BadRequest, DatabaseUnavailable, DeadlineExceeded
from bmi.ids import new_id
from bmi.wait import wait_until

PAGE_LIMIT = 1000  # rows of a list in one answer, at the most
PAGE_DEFAULT = 100  # rows if the caller does not say

_CLAIM_POLL = 0.2  # seconds
_CLAIM_LOST = 40.0  # seconds in which the server has noticed that a connection is dead
LOCK_DEADLINE = 30.0  # seconds that `Db.lock` waits if the caller does not say

_LOCK_NOT_AVAILABLE = "55P03"  # PostgreSQL's code for a lock that was not free in time
_NOTICES = "bmi_notices"  # where a session keeps what is told after it is committed


def now() -> datetime:
    """Return the time, in UTC."""
    return datetime.now(UTC)


class UtcDateTime(TypeDecorator[datetime]):
    """A point in time. SQLite forgets the zone, so it is put back."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: D102
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: D102
        return value.replace(tzinfo=UTC) if value and value.tzinfo is None else value


# Words are stored as they are on the wire; a new one needs no migration.
_WORDS = Enum(
    enum.Enum, native_enum=False, length=32, values_callable=lambda words: [word.value for word in words]
)

Lifecycle = Literal["creating", "ready", "removing"]
"""Where a thing is that BMI makes outside the database."""


class Table(DeclarativeBase):
    """Base of all tables: a time-ordered id, and names for constraints that migrations can refer to."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(column_0_label)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {
        UUID: Uuid(),
        datetime: UtcDateTime(),
        dict[str, Any]: JSON(),
        list[str]: JSON(),
        enum.Enum: _WORDS,
        Literal: _WORDS,
    }

    id: Mapped[UUID] = mapped_column(primary_key=True, default=new_id)


class Db:
    """The way to the database. Thread-safe.

    What a transaction of `write` reads stays true until it ends, on both databases: there is one writer at a
    time, in all processes together. Readers wait for nobody, and nobody waits for them.
    """

    def __init__(self, url: str, *, command: bool = False) -> None:
        """Say where the database is; nothing is connected yet.

        Args:
            url: As in the setting `database.url`.
            command: Whether this is a command beside the service, and no reason to call the service running.

        Raises:
            SettingsInvalid: The URL cannot be used.
        """
        parsed = connect.parse(url)
        self.url = connect.for_commands(parsed) if command else parsed
        """Holds the password; `name` is what may be printed."""
        self.name = connect.shown(parsed)
        self.sqlite = parsed.drivername == "sqlite"
        self.engine = connect.open_engine(self.url)
        self._reading = self.engine.execution_options(**connect.READING[parsed.get_backend_name()])
        self._long = None if self.sqlite else connect.open_long_engine(self.url)
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._locks_guard = threading.Lock()
        self._held = ExitStack()
        self._closed = False
        for engine in filter(None, (self.engine, self._long)):
            event.listen(engine, "checkin", self._close_late)
        self.subscribers: dict[object, Callable[[str, str], None]] = {}
        """On SQLite, who is called with channel and payload of committed notices; see `bmi.notices`."""

    @property
    def closed(self) -> bool:
        """Whether this process has let go of the database for good."""
        return self._closed

    @property
    def shared(self) -> bool:
        """Whether several processes, on several hosts, may work with this database."""
        return not self.sqlite

    @contextmanager
    def write(self, *, alone: bool = True, patience: float = connect.PATIENCE) -> Iterator[Session]:
        """Open a transaction that is committed at the end, and rolled back on an error.

        Args:
            alone: Whether other writers wait until it ends. Without, on PostgreSQL, it must not base what it
                writes on what it read; for a heartbeat, which may not come late.
            patience: Seconds that it waits for a database that does not let it begin.

        Raises:
            DatabaseUnavailable: The database does not answer, or is too busy. If it was lost while it
                committed, nobody knows whether it did.
        """
        with (
            connect.translated(self.url),
            connect.connect_patiently(self.engine, patience) as connection,
            Session(connection, expire_on_commit=False) as session,
            session.begin(),
        ):
            if alone and self.sqlite:
                session.connection()  # begins it: else the first statement would, after what the caller does before
            elif alone:
                session.execute(select(func.pg_advisory_xact_lock(lock_number("bmi write"))))
            yield session
        for channel, payload in session.info.get(_NOTICES, ()):
            for call in list(self.subscribers.values()):
                call(channel, payload)

    @contextmanager
    def read(self, *, patience: float = connect.PATIENCE) -> Iterator[Session]:
        """Open a transaction that changes nothing, and sees the database as it was at its first look.

        Args:
            patience: Seconds that it waits for a database that does not let it begin.

        Raises:
            DatabaseUnavailable: The database does not answer, or is too busy.
        """
        with (
            connect.translated(self.url),
            connect.connect_patiently(self._reading, patience) as connection,
            Session(connection, expire_on_commit=False) as session,
        ):
            yield session

    @contextmanager
    def lock(self, key: str, *, deadline: float = LOCK_DEADLINE) -> Iterator[None]:
        """Keep every other thread out, and on PostgreSQL every other process, while something is done.

        It is not a transaction: what is written inside is written as usual. Whoever holds a lock must not ask
        for it again. A process that dies lets go of it.

        Args:
            key: What is locked; any text.
            deadline: Seconds to wait for it.

        Raises:
            DeadlineExceeded: Another one did not let go of it in time.
            DatabaseUnavailable: The database does not answer; or it was lost meanwhile, and the lock with it:
                another one may have come in.
        """
        if self._long is None:
            with self._locks_guard:
                lock = self._locks[key]
            if not lock.acquire(timeout=deadline):
                raise _lock_taken(key, deadline)
            try:
                yield
            finally:
                lock.release()
            return
        with connect.translated(self.url), self._long.connect() as connection:
            limit = f"{max(1, round(deadline * 1000))}ms"  # 0 would be no limit at all
            connection.execute(select(func.set_config("lock_timeout", limit, True)))
            try:
                connection.execute(select(func.pg_advisory_xact_lock(lock_number(key))))
            except DBAPIError as error:
                if getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE:
                    raise _lock_taken(key, deadline) from error
                raise
            yield
            connection.rollback()

    def claim(self, key: str, *, deadline: float) -> "Claim":
        """Keep every other process from claiming the same, until this one closes the database or dies.

        Unlike `lock` it has no transaction open, which would keep PostgreSQL from making indexes and from
        tidying up for as long as it stays. If the database restarts, the claim is lost:
        `Claim.keep` looks after it.

        Args:
            key: What is claimed; any text.
            deadline: Seconds to wait for it.

        Raises:
            DeadlineExceeded: Another process has it.
            DatabaseUnavailable: The database does not answer.
        """
        claim = Claim(self, key)
        claim.take(deadline)
        self.hold(claim)
        return claim

    def clock(self, session: Session) -> datetime:
        """Return the database's own time, in UTC: the same for all processes, however their clocks go."""
        if self.sqlite:
            return now()
        found: datetime = session.execute(select(func.clock_timestamp())).scalar_one()
        return found.astimezone(UTC)

    def notify(self, session: Session, channel: str, payload: str = "") -> None:
        """Wake up whoever listens on a channel, in any process, once this transaction is committed.

        Args:
            session: The transaction, from `write`.
            channel: A name that `bmi.notices.Listener` was given.
            payload: A few words, such as an id; 7,999 bytes at the most. The same one twice in a transaction
                may come once.
        """
        if self.sqlite:
            session.info.setdefault(_NOTICES, []).append((channel, payload))
        else:
            session.execute(select(func.pg_notify(channel, payload)))

    def detached(self) -> psycopg.Connection:
        """Return a connection outside all pools, without transactions; the caller closes it. PostgreSQL only.

        Raises:
            DatabaseUnavailable: The database does not answer.
        """
        if self._long is None:
            raise AssertionError("SQLite has no connections to wait on")
        with connect.translated(self.url):
            pooled = self._long.connect()
            connection = cast("psycopg.Connection", pooled.connection.driver_connection)
            pooled.detach()
            connection.rollback()
            connection.autocommit = True
            return connection

    def hold(self, thing: AbstractContextManager[object]) -> None:
        """Hold something until `close`."""
        self._held.enter_context(thing)

    def close(self) -> None:
        """Let go of all connections."""
        with suppress(DatabaseUnavailable):  # then locks in it are gone as well
            self._held.close()
        self._closed = True
        self.engine.dispose()
        if self._long is not None:
            self._long.dispose()

    def _close_late(self, _connection: object, record: ConnectionPoolEntry) -> None:
        """Close a connection that a thread gives back after `close`; the pool that it came from is gone."""
        if self._closed:
            record.invalidate()


class Claim(AbstractContextManager["Claim"]):
    """Something that only one process may have at a time; made by `Db.claim`."""

    def __init__(self, db: Db, key: str) -> None:
        self._db = db
        self._key = key
        self._held = ExitStack()
        self._connection: psycopg.Connection | None = None
        self._lost: float | None = None

    def take(self, deadline: float) -> None:
        """Get it.

        Raises:
            DeadlineExceeded: Another process has it.
            DatabaseUnavailable: The database does not answer.
        """
        if self._db.sqlite:
            self._held.enter_context(self._db.lock(self._key, deadline=deadline))
            return
        connection = self._connection = self._db.detached()
        self._held.callback(connection.close)
        asked = "SELECT pg_try_advisory_lock(%s)"

        def taken() -> bool:
            with connect.translated(self._db.url):
                row = connection.execute(asked, (lock_number(f"claim {self._key}"),)).fetchone()
            return bool(row and row[0])

        try:
            wait_until(taken, deadline=deadline, what=self._key, next_step="", poll=_CLAIM_POLL)
        except DeadlineExceeded:
            self._held.close()
            raise _lock_taken(self._key, deadline) from None
        except DatabaseUnavailable:
            self._held.close()
            raise

    def keep(self) -> None:
        """Make sure that it is still had, and get it again if it was lost with its connection.

        To be called every few seconds. The server may take 25 s to notice that a connection is dead, and that
        one's own old one; so another process has it only if it still has it after that.

        Raises:
            DeadlineExceeded: Another process has taken it in between.
            DatabaseUnavailable: The database does not answer.
        """
        if self._connection is None:
            return
        if self._lost is None:
            try:
                with connect.translated(self._db.url):
                    self._connection.execute("SELECT 1")
                return
            except DatabaseUnavailable:
                self._lost = time.monotonic()
                self._held.close()
        try:
            self.take(0)
        except DeadlineExceeded:
            if time.monotonic() - self._lost > _CLAIM_LOST:
                raise
        else:
            self._lost = None

    def __exit__(self, *_: object) -> None:
        with suppress(DatabaseUnavailable):  # then it is gone as well
            self._held.close()


def lock_number(key: str) -> int:
    """Return the number that PostgreSQL knows a lock by: 64 bits, so that two keys never share one."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big", signed=True)


def _lock_taken(key: str, deadline: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"waited {deadline:g} s for the lock on {key}",
        next_step="try again; if it stays so, look at what works on it in this process or another one",
    )


Row = TypeVar("Row", bound=Table)


def page(
    session: Session, query: Select[Row], table: type[Row], *, limit: int, cursor: str | None
) -> tuple[list[Row], str | None]:
    """Return one page of a query's rows, oldest first, and the cursor of the next page.

    Ids are time-ordered, so the last id of a page is where the next one goes on.

    Raises:
        BadRequest: The cursor is not one that an earlier answer gave.
    """
    if cursor is not None:
        try:
            query = query.where(table.id > UUID(cursor))
        except ValueError as error:
            raise BadRequest(
                f"cursor {cursor!r} is not valid", next_step="pass the `next` of an earlier answer"
            ) from error
    rows = list(session.scalars(query.order_by(table.id).limit(limit + 1)))
    return rows[:limit], str(rows[limit - 1].id) if len(rows) > limit else None
