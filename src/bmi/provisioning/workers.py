"""Decides which worker carries out which operation: each one exactly one at a time, and a dead one's another.

The row of the operation says whose it is. A worker claims what nobody has with one statement, which only one of
several can win; it keeps saying that it lives, and claims what belongs to one that does not.
"""

import logging
import queue
import signal
import socket
import threading
import time
from datetime import timedelta
from uuid import UUID

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from bmi.db import Db
from bmi.errors import DeadlineExceeded, SettingsInvalid
from bmi.gateways.service import BEAT, DEAD_AFTER
from bmi.parts import Parts
from bmi.provisioning.engine import THREADS, Engine
from bmi.provisioning.models import Operation, Worker
from bmi.signals import LOST

log = logging.getLogger(__name__)

_NAME_DEADLINE = 30.0  # seconds; PostgreSQL needs 25 to notice that the host of one who had the name is dead

OPERATIONS = "bmi_operations"
"""Channel of signals: there is an operation that nobody has."""


class Claims:
    """What one worker takes, and what it keeps."""

    def __init__(self, parts: Parts, engine: Engine, name: str) -> None:
        self._parts = parts
        self._db: Db = parts.db
        self._engine = engine
        self._name = name
        self._stop = threading.Event()
        self._wanted: queue.SimpleQueue[UUID | None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._repeat, name="claims", daemon=True)]
        if parts.db.shared:
            self._threads.append(threading.Thread(target=self._keep, name="worker", daemon=True))
        parts.signals.on(OPERATIONS, lambda new: self._wanted.put(UUID(new) if new else None))

    def start(self) -> None:
        """Say that this worker lives, go on with what was its own, and begin to claim.

        Raises:
            SettingsInvalid: Another worker has the name.
        """
        try:
            # Whoever has the name goes on with what was begun under it.
            self._name_held = self._db.claim(f"worker {self._name}", deadline=_NAME_DEADLINE)
        except DeadlineExceeded as error:
            raise SettingsInvalid(
                f"a worker named {self._name} runs already",
                next_step="give this one a name of its own: BMI_WORKER__NAME",
            ) from error
        self._beat()
        self._engine.launch()
        if not self._db.shared:
            self._inherit()
        with self._db.read() as session:
            own = session.scalars(
                select(Operation.id).where(Operation.ended_at.is_(None), Operation.worker == self._name)
            ).all()
        for id in own:
            if not self._engine.knows(id):  # it ended between claiming and beginning
                self._engine.begin(id)
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Claim no more."""
        self._stop.set()
        self._wanted.put(None)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()

    def _repeat(self) -> None:
        while not self._stop.is_set():
            try:
                id = self._wanted.get(timeout=LOST)
            except queue.Empty:
                id = None
            try:
                self._engine.begin_dropped()
                for each in [id] if id is not None else self._unclaimed():
                    self._claim(each)
            except Exception as error:
                log.warning("operations cannot be claimed: %s", error)

    def _unclaimed(self) -> list[UUID]:
        """Return operations that nobody has, oldest first, as many as this worker has room for."""
        running = Operation.ended_at.is_(None)
        with self._db.read() as session:
            own = select(func.count()).select_from(Operation).where(running, Operation.worker == self._name)
            room = THREADS - (session.scalar(own) or 0)
            free = select(Operation.id).where(running, Operation.worker.is_(None)).order_by(Operation.id)
            return list(session.scalars(free.limit(max(0, room))))

    def _claim(self, id: UUID) -> None:
        with self._db.write() as session:
            if not _take(session, id, by=self._name, of=None):
                return
        self._engine.begin(id)

    def _inherit(self) -> None:
        """Make everything this worker's own: there is no other process, only what this one was called before."""
        with self._db.write() as session:
            running = update(Operation).where(Operation.ended_at.is_(None), Operation.worker.is_not(None))
            session.execute(running.values(worker=self._name))

    # --- workers that died -------------------------------------------------------------------------------

    def _keep(self) -> None:
        while not self._stop.wait(BEAT):
            begun = time.monotonic()
            try:
                self._name_held.keep()
                self._beat()
                self._take_over()
            except DeadlineExceeded:
                # Both would go on with what was begun under the name.
                log.critical("another worker has taken the name %s: this one ends", self._name)
                signal.raise_signal(signal.SIGTERM)
                return
            except Exception as error:
                log.warning("this worker cannot say that it lives: %s", error)
            if (taken := time.monotonic() - begun) > BEAT:
                log.warning("a sign of life took %.1f s", taken)

    def _beat(self) -> None:
        with self._db.write(alone=False) as session:
            row = session.scalar(select(Worker).where(Worker.name == self._name))
            if row is None:
                row = Worker(name=self._name)
                session.add(row)
            row.seen_at = self._db.clock(session)

    def _take_over(self) -> None:
        with self._db.write() as session:
            dead = dead_workers(self._db, session)
            found = select(Operation).where(Operation.ended_at.is_(None), Operation.worker.in_(dead))
            taken = [
                row.id
                for row in session.scalars(found).all()
                if _take(session, row.id, by=self._name, of=row.worker)
            ]
        for id in taken:
            log.warning("taking over operation %s", id)
            self._engine.begin(id)


def dead_workers(db: Db, session: Session) -> list[str]:
    """Return the names of the workers that were not heard of lately."""
    long_ago = db.clock(session) - timedelta(seconds=DEAD_AFTER)
    return list(session.scalars(select(Worker.name).where(Worker.seen_at < long_ago)))


def worker_name(chosen: str | None) -> str:
    """Return what this worker is called: what the settings say, else the host's name."""
    return chosen or socket.gethostname()


def _take(session: Session, id: UUID, *, by: str, of: str | None) -> bool:
    """Make an operation a worker's own if it is still whose it was, and say whether that worked."""
    theirs = Operation.worker.is_(None) if of is None else Operation.worker == of
    statement = update(Operation).where(Operation.id == id, Operation.ended_at.is_(None), theirs)
    return bool(session.execute(statement.values(worker=by)).rowcount)  # type: ignore[attr-defined]
