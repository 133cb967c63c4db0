"""What is written down about operations while they run: their steps, and their end."""

import functools
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bmi.api.common import Problem
from bmi.api.operations import Ending, OperationState, StepState
from bmi.db import Db, now
from bmi.errors import Cancelled, DatabaseUnavailable
from bmi.events import record
from bmi.provisioning.models import Operation, Step

log = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")

_PAUSE = 1.0  # seconds between two tries to reach the database, each of which takes a few itself


Settle = Callable[[Session, Operation, Ending], None]
"""Writes how things stand once an operation has ended, in the same transaction."""


class Abandoned(BaseException):
    """This process does not carry an operation out any more. It stays as it is, and is taken up later.

    Not an `Exception`: nobody on the way may take it for the failure of a step.
    """


class TakenOver(Abandoned):
    """Another worker carries this operation out now; this one must not touch anything any more."""


class Interrupted(Abandoned):
    """This process is to end."""


def _patiently(write: Callable[Concatenate["Journal", P], R]) -> Callable[Concatenate["Journal", P], R]:
    """Try again for as long as the database is away: an operation must not end because it could not be noted.

    What was written and what only seemed lost cannot be told apart, so everything here can be written twice.
    """

    @functools.wraps(write)
    def persistent(journal: "Journal", /, *args: P.args, **kwargs: P.kwargs) -> R:
        end = time.monotonic() + DatabaseUnavailable.patience
        while True:
            try:
                return write(journal, *args, **kwargs)
            except DatabaseUnavailable as error:
                # A process that ends does not wait: the next one takes the operation up.
                if time.monotonic() >= end or journal.closed:
                    raise
                log.warning("waiting for the database: %s", error)
                time.sleep(_PAUSE)

    return persistent


class Journal:
    """Writes one operation's progress, as long as it is this worker's. It waits for a database that is away."""

    def __init__(self, db: Db, operation: UUID) -> None:
        self._db = db
        self._id = operation
        self._claim = 0

    @property
    def closed(self) -> bool:
        """Whether this process has let go of the database."""
        return self._db.closed

    @_patiently
    def begin(self, worker: str) -> Operation:
        """Mark the operation running and this worker's own, and return it.

        Args:
            worker: Who carries it out from now on; whoever did before learns that he does no longer.
        """
        with self._db.write() as session:
            row = session.get_one(Operation, self._id)
            if row.ended_at is not None:
                return row
            if row.state is OperationState.QUEUED:
                row.state = OperationState.RUNNING
            row.started_at = row.started_at or now()
            row.worker = worker
            row.claim += 1
            self._claim = row.claim
            return row

    @_patiently
    def cancelling(self) -> bool:
        """Say whether somebody asked for the operation to be cancelled."""
        with self._db.read() as session:
            state = session.scalar(select(Operation.state).where(Operation.id == self._id))
        return state is OperationState.CANCELLING

    @_patiently
    def step_begun(self, name: str) -> None:
        """Note that a step runs, for the first time or again."""
        with self._writing() as session:
            row = self._step(session, name)
            if row is None:
                count = session.scalar(
                    select(func.count()).select_from(Step).where(Step.operation_id == self._id)
                )
                session.add(Step(operation_id=self._id, name=name, position=count or 0))
            else:
                row.state, row.ended_at = StepState.RUNNING, None

    @_patiently
    def step_ended(self, name: str, state: StepState, detail: str) -> None:
        """Note how a step ended."""
        with self._writing() as session:
            row = self._step(session, name)
            if row is None:
                return
            row.state, row.detail, row.ended_at = state, detail, now()
            if state is StepState.DONE and row.progress is not None:
                row.progress = 1.0
            self._event(session, "operation.step", f"{name}: {detail or state}")

    @_patiently
    def progress(self, name: str, detail: str, fraction: float) -> None:
        """Note how far a step is."""
        with self._writing() as session:
            if row := self._step(session, name):
                row.detail, row.progress = detail, fraction

    @_patiently
    def remember(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Keep with the request what later steps need to know, unless it is there already; return all of it."""
        with self._writing() as session:
            row = session.get_one(Operation, self._id)
            row.request = {**facts, **row.request}
            return row.request

    @_patiently
    def note(self, kind: str, message: str) -> None:
        """Write an event of the operation."""
        with self._writing() as session:
            self._event(session, kind, message)

    @_patiently
    def end(self, ending: Ending, error: Problem | None, result: dict[str, object], settle: Settle) -> None:
        """Mark the operation ended and settle what it was about, in one transaction; once only."""
        with self._writing() as session:
            row = session.get_one(Operation, self._id)
            if row.ended_at is not None:
                return
            row.state, row.ending = _final_state(ending, error), ending
            row.error = error.model_dump() if error else None
            row.result = {**row.result, **result}
            if ending is Ending.SUCCEEDED:
                row.asked = None
            row.ended_at = now()
            settle(session, row, ending)
            words = f"{row.verb} {row.state}" + (f": {error.detail}; {error.next_step}" if error else "")
            self._event(session, f"operation.{row.state}", words)

    @contextmanager
    def _writing(self) -> Iterator[Session]:
        """Open a transaction in which nobody can take the operation over.

        Raises:
            TakenOver: Somebody has already.
        """
        with self._db.write() as session:
            mine = select(Operation.claim).where(Operation.id == self._id).with_for_update()
            if session.scalar(mine) != self._claim:
                raise TakenOver(str(self._id))
            yield session

    def _step(self, session: Session, name: str) -> Step | None:
        return session.scalar(select(Step).where(Step.operation_id == self._id, Step.name == name))

    def _event(self, session: Session, kind: str, message: str) -> None:
        row = session.get_one(Operation, self._id)
        record(session, kind, message, node=row.node_id, operation=row.id, project=row.project_id)


def _final_state(ending: Ending, error: Problem | None) -> OperationState:
    if ending is Ending.SUCCEEDED:
        return OperationState.SUCCEEDED
    if error is not None and error.code == Cancelled.code and ending is not Ending.STUCK:
        return OperationState.CANCELLED
    return OperationState.FAILED
