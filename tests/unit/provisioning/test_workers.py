"""Which worker carries out which operation: each exactly one, and a dead one's another."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, cast
from uuid import UUID

import pytest
from sqlalchemy import select

from bmi import server
from bmi.api.operations import OperationState
from bmi.db import Db, now
from bmi.errors import InUse, SettingsInvalid
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.provisioning import workers
from bmi.provisioning.engine import Engine
from bmi.provisioning.journal import Journal, TakenOver
from bmi.provisioning.models import Operation, Worker
from bmi.provisioning.workers import Claims
from bmi.wait import wait_until


class Begun:
    """Stands for the engine: remembers what it was told to begin."""

    def __init__(self) -> None:
        self.operations: list[UUID] = []
        self.known: set[UUID] = set()

    def launch(self) -> None:
        pass

    def begin(self, operation: UUID) -> None:
        self.operations.append(operation)

    def begin_dropped(self) -> None:
        pass

    def knows(self, operation: UUID) -> bool:
        return operation in self.known


def add_operation(parts: Parts, worker: str | None = None) -> UUID:
    id = new_id()
    with parts.db.write() as session:
        session.add(
            Operation(id=id, verb="x", subject="x", asked_by="t", request={}, result={}, worker=worker)
        )
    return id


def claims(parts: Parts, name: str) -> tuple[Claims, Begun]:
    begun = Begun()
    return Claims(parts, cast("Engine", begun), name), begun


def worker_of(parts: Parts, id: UUID) -> str | None:
    with parts.db.read() as session:
        return session.get_one(Operation, id).worker


def test_of_many_workers_one_gets_an_operation(parts: Parts) -> None:
    ids = [add_operation(parts) for _ in range(5)]
    crew = [claims(parts, f"w{number}") for number in range(6)]
    start = threading.Barrier(len(crew))

    def claim_all(one: Claims) -> None:
        start.wait()
        for id in ids:
            one._claim(id)

    with ThreadPoolExecutor(len(crew)) as pool:
        list(pool.map(claim_all, [one for one, _ in crew]))
    assert sorted(id for _, begun in crew for id in begun.operations) == ids


def test_what_nobody_has_is_found_without_a_signal(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "LOST", 0.05)
    one, begun = claims(parts, "w1")
    one.start()
    id = add_operation(parts)
    wait_until(lambda: begun.operations == [id], deadline=10, what="the claim", next_step="-")
    one.close()
    assert worker_of(parts, id) == "w1"


def test_a_worker_takes_no_more_than_it_has_room_for(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "THREADS", 3)
    add_operation(parts, worker="w1")
    ids = [add_operation(parts) for _ in range(5)]
    one, _ = claims(parts, "w1")
    assert one._unclaimed() == ids[:2]


def test_a_worker_begins_what_it_had_claimed_before_it_ended(parts: Parts) -> None:
    never_begun, in_the_engine = add_operation(parts, worker="w1"), add_operation(parts, worker="w1")
    one, begun = claims(parts, "w1")
    begun.known.add(in_the_engine)
    one.start()
    one.close()
    assert begun.operations == [never_begun]


def test_a_worker_that_has_the_database_alone_goes_on_with_what_it_began_under_another_name(
    parts: Parts,
) -> None:
    id = add_operation(parts, worker="the-old-host-name")
    one, begun = claims(parts, "w1")
    one.start()
    one.close()
    assert begun.operations == ([] if parts.db.shared else [id])


def test_the_operations_of_a_dead_worker_go_to_another(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Db, "clock", lambda *_: now())
    of_dead, of_living = add_operation(parts, worker="dead"), add_operation(parts, worker="living")
    with parts.db.write() as session:
        session.add(Worker(name="dead", seen_at=now() - timedelta(seconds=11)))
        session.add(Worker(name="living", seen_at=now() - timedelta(seconds=9)))
    one, begun = claims(parts, "w1")
    one._take_over()
    one._take_over()
    assert begun.operations == [of_dead]
    assert (worker_of(parts, of_dead), worker_of(parts, of_living)) == ("w1", "living")


def test_who_lost_an_operation_learns_it_and_writes_nothing_more(parts: Parts) -> None:
    id = add_operation(parts)
    old, new = Journal(parts.db, id), Journal(parts.db, id)
    old.begin("w1")
    old.step_begun("disk")
    new.begin("w2")
    for write in (
        lambda: old.step_begun("seed"),
        lambda: old.step_ended("disk", cast("Any", "done"), ""),
        lambda: old.note("x", "y"),
        lambda: old.progress("disk", "", 0.5),
        lambda: old.end(cast("Any", None), None, {}, lambda *_: None),
    ):
        with pytest.raises(TakenOver):
            write()
    with parts.db.read() as session:
        row = session.scalars(select(Operation)).one()
        assert (row.worker, row.state) == ("w2", OperationState.RUNNING)
        assert [(step.name, step.ended_at) for step in row.steps] == [("disk", None)]


def test_two_workers_cannot_have_one_name(parts: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_NAME_DEADLINE", 0.2)
    one, _ = claims(parts, "w1")
    one.start()
    other, begun = claims(parts, "w1")
    with pytest.raises(SettingsInvalid, match="a worker named w1 runs already"):
        other.start()
    one.close()
    assert begun.operations == []


def test_two_processes_cannot_have_one_state_folder(parts: Parts) -> None:
    with pytest.raises(InUse, match=str(parts.settings.state_dir)):
        server.build_parts(parts.settings)
