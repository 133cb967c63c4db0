"""The database on PostgreSQL when it is down, restarted, busy or shared with other processes."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select, text

from bmi import db as db_module
from bmi.access.models import Project
from bmi.access.service import ADMIN_TOKEN_FILE, bootstrap
from bmi.db import Db
from bmi.errors import DatabaseUnavailable, DeadlineExceeded
from bmi.ids import new_id
from bmi.images.models import Image
from bmi.lab.postgres import Postgres
from bmi.notices import Listener, Notice
from bmi.server import build_app, build_parts
from bmi.settings import Settings
from bmi.wait import wait_until
from tests.databases import Cluster, cluster

DEADLINE = 20.0  # seconds


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    with cluster() as made:
        yield made


@pytest.fixture
def server(shared: Cluster) -> Iterator[Postgres]:
    yield shared.server
    shared.server.start()


@pytest.fixture
def url(shared: Cluster, server: Postgres) -> Iterator[str]:
    with shared.database() as made:
        yield made
        server.start()


@pytest.fixture
def db(url: str) -> Iterator[Db]:
    found = Db(url)
    yield found
    found.close()


def until(condition: Callable[[], object]) -> None:
    wait_until(condition, deadline=DEADLINE, what="it", next_step="look", poll=0.005)


def add(db: Db, name: str, **how: float) -> None:
    with db.write(**how) as session:  # type: ignore[arg-type]
        session.add(Project(name=name))


def names(db: Db) -> set[str]:
    with db.read() as session:
        return set(session.scalars(select(Project.name)))


def test_a_database_that_is_down_is_told_soon_and_without_its_password(db: Db, server: Postgres) -> None:
    add(db, "before")
    server.stop()
    for use in (lambda: add(db, "lost", patience=0.2), lambda: db.detached(), lambda: next(iter(lock(db)))):
        begun = time.monotonic()
        with pytest.raises(
            DatabaseUnavailable, match=r"bmi@127\.0\.0\.1.*cannot be used: .*refused"
        ) as caught:
            use()
        assert time.monotonic() - begun < 5
        assert (caught.value.status, caught.value.transient) == (503, True)
        password = server.password_file.read_text().strip().rpartition(":")[2]
        assert password not in f"{caught.value}{caught.value.__cause__!r}"
    server.start()
    assert names(db) == {"before"}


def lock(db: Db) -> Iterator[None]:
    with db.lock("thing"):
        yield


def test_a_restart_is_waited_for_and_dead_connections_are_replaced(db: Db, server: Postgres) -> None:
    with ThreadPoolExecutor(8) as threads:  # fill the pool
        list(threads.map(lambda number: add(db, f"p{number}"), range(8)))
    server.stop()
    starting = threading.Timer(0.3, server.start)
    starting.start()
    add(db, "after")
    starting.join()
    assert len(names(db)) == 9
    server.kill()
    server.start()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: add(db, f"q{number}"), range(8)))
    # What was last committed before the crash may be gone: this server does not wait for its disk.
    assert {f"q{number}" for number in range(8)} <= names(db)


def test_a_transaction_that_is_cut_off_is_told_and_leaves_nothing(db: Db) -> None:
    with pytest.raises(DatabaseUnavailable), db.write() as session:
        session.add(Project(name="half"))
        session.flush()
        cut_off(db, session.execute(text("SELECT pg_backend_pid()")).scalar_one())
        session.add(Project(name="other half"))
    assert names(db) == set()


def cut_off(db: Db, pid: int) -> None:
    with db.read() as other:
        other.execute(text(f"SELECT pg_terminate_backend({pid}, 5000)"))


@pytest.mark.parametrize("setting", ["statement_timeout=100", "idle_in_transaction_session_timeout=100"])
def test_a_transaction_that_is_stuck_is_ended(url: str, setting: str) -> None:
    db = Db(f"{url}&options=-c%20{setting.replace('=', '%3D')}")
    with pytest.raises(DatabaseUnavailable, match="too long"), db.write() as session:
        if setting.startswith("statement"):
            session.execute(text("SELECT pg_sleep(10)"))
        else:
            session.execute(text("SELECT 1"))
            pid = session.execute(text("SELECT pg_backend_pid()")).scalar_one()
            with closing(Db(url)) as watching, watching.read() as other:
                is_there = text("SELECT count(*) FROM pg_stat_activity WHERE pid = :pid")
                until(lambda: other.rollback() or not other.execute(is_there, {"pid": pid}).scalar_one())
            session.execute(text("SELECT 1"))
    db.close()


def test_transactions_that_wait_for_each_other_are_told_so(db: Db) -> None:
    for name in "ab":
        add(db, name)
    both = threading.Barrier(2)
    ended: list[str] = []

    def rename(first: str, second: str) -> None:
        try:
            with db.write(alone=False) as session:
                session.execute(text("UPDATE projects SET name = name WHERE name = :name"), {"name": first})
                both.wait(DEADLINE)
                session.execute(text("UPDATE projects SET name = name WHERE name = :name"), {"name": second})
            ended.append("done")
        except DatabaseUnavailable as error:
            ended.append(error.message)

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(rename, "ab", "ba"))
    assert sorted(ended)[0] == "done"
    assert "two transactions waited for each other" in sorted(ended)[1]


def test_a_writer_that_is_not_alone_does_not_wait(db: Db) -> None:
    with db.write() as session:
        session.add(Project(name="slow"))
        session.flush()
        begun = time.monotonic()
        with db.write(alone=False) as other:
            other.add(Project(name="heartbeat"))
        assert time.monotonic() - begun < 5
        assert names(db) == {"heartbeat"}


HOLDER = """
import sys
from bmi.db import Db
with Db(sys.argv[1]).lock("thing"):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(url: str) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_lock_keeps_other_processes_out_until_they_die(db: Db, holder: "subprocess.Popen[bytes]") -> None:
    with pytest.raises(DeadlineExceeded, match="lock on thing"), db.lock("thing", deadline=0.2):
        pass
    with db.lock("another thing", deadline=0.2):
        pass
    threading.Timer(0.1, holder.kill).start()
    with db.lock("thing", deadline=DEADLINE):
        assert holder.wait(DEADLINE) < 0


def test_a_lock_that_was_lost_with_its_connection_is_told(db: Db, url: str) -> None:
    with pytest.raises(DatabaseUnavailable), db.lock("thing"):
        with closing(Db(url)) as watching, watching.read() as session:
            find = text("SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted")
            cut_off(db, session.execute(find).scalar_one())
        with db.lock("thing", deadline=DEADLINE):  # another one could come in
            pass
    with db.lock("thing", deadline=0.2):
        pass


def claiming(db: Db) -> list[int]:
    with db.read() as session:
        find = text("SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_try_advisory_lock%'")
        return list(session.execute(find).scalars())


def test_a_claim_that_loses_its_connection_while_it_waits_is_told(db: Db, url: str) -> None:
    with closing(Db(url)) as owner, ThreadPoolExecutor(1) as pool:
        owner.claim("thing", deadline=DEADLINE)
        waiting = pool.submit(db.claim, "thing", deadline=DEADLINE)
        until(lambda: len(claiming(owner)) == 2)
        for pid in claiming(owner):
            cut_off(owner, pid)
        with pytest.raises(DatabaseUnavailable):
            waiting.result(DEADLINE)


def test_a_claim_that_was_lost_with_the_server_is_had_again(db: Db, url: str, server: Postgres) -> None:
    claim = db.claim("thing", deadline=DEADLINE)
    server.kill()
    with pytest.raises(DatabaseUnavailable):
        claim.keep()
    server.start()
    claim.keep()
    with closing(Db(url)) as other:
        with pytest.raises(DeadlineExceeded):
            other.claim("thing", deadline=0.2)
        claim.keep()


def test_a_claim_that_another_process_took_meanwhile_is_given_up(
    db: Db, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    claim = db.claim("thing", deadline=DEADLINE)
    with closing(Db(url)) as other:
        for pid in claiming(other):
            cut_off(other, pid)
        other.claim("thing", deadline=DEADLINE)
        claim.keep()  # it may be the connection that was lost
        monkeypatch.setattr(db_module, "_CLAIM_LOST", 0)
        with pytest.raises(DeadlineExceeded):
            claim.keep()


def test_a_listener_comes_back_after_a_restart_and_says_that_it_was_away(
    db: Db, server: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    got: list[Notice] = []
    with caplog.at_level(logging.WARNING), Listener(db, ["c"], got.append):
        until(lambda: got)
        server.kill()
        server.start()
        until(lambda: len(got) == 2)
        assert got == [Notice("c", None)] * 2
        with db.write() as session:
            db.notify(session, "c", "after")
        until(lambda: len(got) == 3)
        assert got[2] == Notice("c", "after")
    assert len([record for record in caplog.records if "notices are missed" in record.message]) == 1


TELLER = """
import sys
from bmi.db import Db
db = Db(sys.argv[1])
with db.write() as session:
    db.notify(session, "c", "from " + sys.argv[2])
"""


def test_a_notice_reaches_another_process_at_once(db: Db, url: str) -> None:
    got: list[tuple[Notice, float]] = []
    with Listener(db, ["c"], lambda notice: got.append((notice, time.perf_counter()))):
        until(lambda: got)
        subprocess.run([sys.executable, "-c", TELLER, url, str(os.getpid())], check=True, timeout=DEADLINE)
        until(lambda: len(got) == 2)
        assert got[1][0] == Notice("c", f"from {os.getpid()}")
        spans = []
        for number in range(2, 22):
            with db.write() as session:
                db.notify(session, "c", str(number))
            committed = time.perf_counter()
            until(lambda number=number: len(got) > number)  # type: ignore[misc]
            spans.append(got[-1][1] - committed)
        assert sorted(spans)[len(spans) // 2] < 0.05


def test_the_service_outlives_a_restart_of_its_database(url: str, server: Postgres, tmp_path: Path) -> None:
    settings = Settings.model_validate(
        {
            "state_dir": tmp_path / "state",
            "cache_dir": tmp_path / "cache",
            "database": {"url": url},
            "storage": {"driver": "memory"},
            "target": {"driver": "memory"},
            "leg": {"driver": "memory"},
            "power": {"memory": {}},
        }
    )
    parts = build_parts(settings)
    bootstrap(parts.db, settings.state_dir)
    token = (settings.state_dir / ADMIN_TOKEN_FILE).read_text().strip()
    with TestClient(build_app(parts), headers={"Authorization": f"Bearer {token}"}) as api:
        assert api.post("/v1/projects", json={"name": "before"}).status_code == 201
        raw = tmp_path / "golden.raw"
        raw.write_bytes(b"golden".ljust(1 << 20, b"\0"))
        image = Image(id=new_id(), name="golden", state="ready", origin="import", size=1 << 20)
        parts.storage.import_image(image.id, raw, lambda done, total: None)
        with parts.db.write() as session:
            session.add(image)
        server.stop()
        answer = api.get("/v1/projects")
        assert (answer.status_code, answer.json()["code"]) == (503, "database-unavailable")
        server.start()
        made = api.post("/v1/disks", json={"name": "web", "image": "golden", "project": "before"})
        assert made.status_code == 202, made.text
        operation = api.get(made.headers["Location"], params={"wait": 30}).json()
        assert operation["state"] == "succeeded", operation["error"]
