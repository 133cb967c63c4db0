import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, select

from bmi import tables
from bmi.access.models import Project
from bmi.db import Db, Table, page
from bmi.errors import BadRequest, DeadlineExceeded
from bmi.notices import Listener, Notice
from bmi.wait import wait_until

DEADLINE = 10.0  # seconds


@pytest.fixture
def db(database_url: str) -> Iterator[Db]:
    found = Db(database_url)
    yield found
    found.close()


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, deadline=DEADLINE, what="it", next_step="look", poll=0.001)


def names(db: Db) -> list[str]:
    with db.read() as session:
        return list(session.scalars(select(Project.name).order_by(Project.id)))


def test_migrations_make_exactly_the_tables_of_the_code(db: Db) -> None:
    assert tables
    with db.engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Table.metadata) == []


def test_pages_follow_each_other_without_gap_or_overlap(db: Db) -> None:
    wanted = [f"p{number}" for number in range(7)]
    for name in wanted:
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
        assert seen == wanted
        with pytest.raises(BadRequest, match="cursor"):
            page(session, select(Project), Project, limit=3, cursor="not-a-cursor")


def test_an_error_rolls_everything_back(db: Db) -> None:
    with pytest.raises(RuntimeError), db.write() as session:
        session.add(Project(name="gone"))
        session.flush()
        raise RuntimeError
    assert names(db) == []


def test_times_come_back_in_utc_and_to_the_microsecond(db: Db) -> None:
    moment = datetime(2026, 3, 29, 2, 30, 0, 123456, tzinfo=UTC)
    with db.write() as session:
        session.add(Project(name="p", created_at=moment))
    with db.read() as session:
        found = session.scalars(select(Project.created_at)).one()
        assert (found, found.utcoffset()) == (moment, timedelta(0))


def test_what_a_writer_read_stays_true_until_it_ends(db: Db) -> None:
    def add_next(_: int) -> None:
        with db.write() as session:
            count = session.scalar(select(func.count()).select_from(Project))
            session.add(Project(name=f"p{count}"))  # two that counted the same would collide

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(add_next, range(48)))
    assert sorted(names(db)) == sorted(f"p{number}" for number in range(48))


def test_a_reader_neither_waits_for_a_writer_nor_sees_what_is_not_committed(db: Db) -> None:
    with db.write() as session:
        session.add(Project(name="late"))
        session.flush()
        assert names(db) == []
    assert names(db) == ["late"]


def test_a_reader_sees_one_moment(db: Db) -> None:
    with db.read() as session:
        assert session.scalar(select(func.count()).select_from(Project)) == 0
        with db.write() as writing:
            writing.add(Project(name="meanwhile"))
        assert session.scalar(select(func.count()).select_from(Project)) == 0
    assert names(db) == ["meanwhile"]


def test_a_connection_that_a_thread_gives_back_after_the_end_is_closed(db: Db) -> None:
    with db.read() as session:
        connection: Any = session.connection().connection.driver_connection
        session.execute(select(1))
        db.close()
        session.execute(select(1))  # a thread that is just at work may end it
    with pytest.raises((sqlite3.ProgrammingError, psycopg.OperationalError), match="closed"):
        connection.execute("SELECT 1")


def test_the_database_has_a_clock(db: Db) -> None:
    with db.write() as session:
        first = db.clock(session)
        assert first.utcoffset() == timedelta(0)
        assert abs(first - datetime.now(UTC)) < timedelta(seconds=5)
        until(lambda: db.clock(session) > first)  # it goes on inside a transaction


def test_a_lock_lets_one_thread_in_at_a_time(db: Db) -> None:
    inside = 0
    most = 0

    def enter(_: int) -> None:
        nonlocal inside, most
        with db.lock("thing"):
            inside += 1
            most = max(most, inside)
            time.sleep(0.002)  # long enough for another one to come in, if it could
            inside -= 1

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(enter, range(32)))
    assert most == 1


def test_a_lock_that_is_held_is_waited_for_until_the_deadline(db: Db) -> None:
    with db.lock("thing"), db.lock("another thing"):
        begun = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="lock on thing"), db.lock("thing", deadline=0.2):
            pass
        assert 0.2 <= time.monotonic() - begun < DEADLINE
    with db.lock("thing", deadline=0.2):
        pass


def test_a_lock_is_free_again_after_an_error(db: Db) -> None:
    with pytest.raises(RuntimeError), db.lock("thing"):
        raise RuntimeError
    with db.lock("thing", deadline=0.2):
        pass


def test_whoever_holds_a_lock_can_use_the_database(db: Db) -> None:
    def use(number: int) -> None:
        with db.lock(f"thing {number}"), db.write() as session:
            session.add(Project(name=f"p{number}"))

    # More holders at once than the pool of transactions has connections.
    with ThreadPoolExecutor(40) as threads:
        list(threads.map(use, range(40)))
    assert len(names(db)) == 40


def test_notices_come_after_the_commit_and_only_then(db: Db) -> None:
    got: list[Notice] = []
    with Listener(db, ["wake up", "other"], got.append):
        until(lambda: len(got) == 2)
        assert got == [Notice("wake up", None), Notice("other", None)]
        with pytest.raises(RuntimeError), db.write() as session:
            db.notify(session, "wake up", "rolled back")
            raise RuntimeError
        with db.write() as session:
            db.notify(session, "wake up", "committed")
            db.notify(session, "nobody listens", "x")
            session.add(Project(name="p"))
            session.flush()
            assert len(got) == 2
        until(lambda: len(got) == 3)
        assert got[2] == Notice("wake up", "committed")
        assert names(db) == ["p"]


def test_every_listener_is_told(db: Db) -> None:
    first: list[Notice] = []
    second: list[Notice] = []
    with Listener(db, ["c"], first.append), Listener(db, ["c"], second.append):
        until(lambda: first and second)
        with db.write() as session:
            db.notify(session, "c", "1")
        until(lambda: len(first) == 2 and len(second) == 2)


def test_waiting_ends_with_a_notice_or_with_the_time(db: Db) -> None:
    with Listener(db, ["c"]) as listener:
        assert listener.wait(DEADLINE)  # the one that says: look at everything
        assert not listener.wait(0.05)

        def tell() -> None:
            with db.write() as session:
                db.notify(session, "c")

        threading.Timer(0.05, tell).start()
        begun = time.monotonic()
        assert listener.wait(DEADLINE)
        assert time.monotonic() - begun < DEADLINE / 2


def test_a_call_that_fails_does_not_end_the_listening(db: Db, caplog: pytest.LogCaptureFixture) -> None:
    got: list[Notice] = []

    def call(notice: Notice) -> None:
        got.append(notice)
        raise RuntimeError

    with Listener(db, ["c"], call):
        until(lambda: got)
        with db.write() as session:
            db.notify(session, "c", "still there")
        until(lambda: len(got) == 2)
    assert "a notice on c could not be handled" in caplog.text


def test_a_closed_listener_is_told_nothing_and_leaves_no_thread(db: Db) -> None:
    got: list[Notice] = []
    listener = Listener(db, ["c"], got.append)
    until(lambda: got)
    begun = time.monotonic()
    listener.close()
    listener.close()
    assert time.monotonic() - begun < 1
    assert not [thread for thread in threading.enumerate() if thread.name == "notices"]
    with db.write() as session:
        db.notify(session, "c", "nobody is there")
    assert len(got) == 1
