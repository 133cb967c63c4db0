"""The database: one engine per process, one session per unit of work."""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar
from uuid import UUID

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    JSON,
    Connection,
    DateTime,
    Dialect,
    Enum,
    MetaData,
    Select,
    TypeDecorator,
    Uuid,
    create_engine,
    event,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bmi.errors import BadRequest, SettingsInvalid
from bmi.ids import new_id

PAGE_LIMIT = 1000  # rows of a list in one answer, at the most
PAGE_DEFAULT = 100  # rows if the caller does not say

_BUSY_TIMEOUT = 30  # seconds that a writer waits for another one (SQLite has one at a time)


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
    """The way to the database. Thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.engine = create_engine(url, connect_args=_connect_args(url), pool_pre_ping=True)
        self._sqlite = self.engine.dialect.name == "sqlite"
        if self._sqlite:
            event.listen(self.engine, "connect", _configure_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        self._reading = self.engine.execution_options(bmi_reading=True)

    @contextmanager
    def write(self) -> Iterator[Session]:
        """Open a transaction that is committed at the end, and rolled back on an error."""
        with Session(self.engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def read(self) -> Iterator[Session]:
        """Open a transaction that changes nothing; readers do not wait for writers."""
        with Session(self._reading, expire_on_commit=False) as session:
            yield session

    def upgrade(self) -> None:
        """Bring the tables to this release's form."""
        with self.engine.begin() as connection:
            command.upgrade(_alembic(connection), "head")

    def check(self) -> None:
        """Refuse tables that another release made.

        Raises:
            SettingsInvalid: The tables are older or newer than this release.
        """
        with self.engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_heads()
            expected = tuple(ScriptDirectory.from_config(_alembic(connection)).get_heads())
        if found != expected:
            raise SettingsInvalid(
                f"the database has schema {', '.join(found) or 'none'}, this release needs {expected[0]}",
                next_step="start the release that belongs to it, or restore a backup",
            )

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()


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


def _connect_args(url: str) -> dict[str, Any]:
    return {"timeout": _BUSY_TIMEOUT, "check_same_thread": False} if url.startswith("sqlite") else {}


def _configure_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun by _begin_sqlite, not by the driver
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    # A transaction that begins as a reader and writes later fails when another one wrote in between.
    reading = connection.get_execution_options().get("bmi_reading", False)
    connection.exec_driver_sql("BEGIN" if reading else "BEGIN IMMEDIATE")


def _alembic(connection: Connection) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    return config
