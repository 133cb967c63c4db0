"""What is written down about operations while they run: their steps, and their end."""

import logging
from collections.abc import Callable
from enum import StrEnum
from uuid import UUID

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bmi.api.common import Problem
from bmi.api.operations import OperationState, StepState
from bmi.db import Db, now
from bmi.errors import BmiError
from bmi.events import record
from bmi.provisioning.models import Operation, Step

log = logging.getLogger(__name__)


class Ending(StrEnum):
    """How an operation came out, for the verb that settles what it was about."""

    SUCCEEDED = "succeeded"
    UNDONE = "undone"
    """It failed or was cancelled, and everything is as it was before."""
    STANDING = "standing"
    """It failed at a point from which nothing is undone."""
    STUCK = "stuck"
    """It failed, and undoing failed too."""


Settle = Callable[[Session, Operation, Ending], None]
"""Writes how things stand once an operation has ended, in the same transaction."""


def problem(error: BaseException) -> Problem:
    """Return an error as it goes over the wire and into the database."""
    if isinstance(error, BmiError):
        return Problem(
            type=f"urn:bmi:error:{error.code}",
            title=(type(error).__doc__ or "").strip().rstrip("."),
            status=error.status,
            detail=error.message,
            code=error.code,
            next_step=error.next_step,
        )
    return Problem(
        type="urn:bmi:error:internal",
        title="BMI has a defect",
        status=500,
        detail=f"unexpected {type(error).__name__}",
        code="internal",
        next_step="look at the service's log, and report it",
    )


class Journal:
    """Writes one operation's progress."""

    def __init__(self, db: Db, operation: UUID) -> None:
        self._db = db
        self._id = operation

    def begin(self) -> Operation:
        """Mark the operation running, and return it."""
        with self._db.write() as session:
            row = session.get_one(Operation, self._id)
            if row.state is OperationState.QUEUED:
                row.state = OperationState.RUNNING
            row.started_at = row.started_at or now()
            return row

    def cancelling(self) -> bool:
        """Say whether somebody asked for the operation to be cancelled."""
        with self._db.read() as session:
            state = session.scalar(select(Operation.state).where(Operation.id == self._id))
        return state is OperationState.CANCELLING

    def step_begun(self, name: str) -> None:
        """Note that a step runs, for the first time or again."""
        with self._db.write() as session:
            row = self._step(session, name)
            if row is None:
                count = session.scalar(
                    select(func.count()).select_from(Step).where(Step.operation_id == self._id)
                )
                session.add(Step(operation_id=self._id, name=name, position=count or 0))
            else:
                row.state, row.ended_at = StepState.RUNNING, None

    def step_ended(self, name: str, state: StepState, detail: str) -> None:
        """Note how a step ended."""
        with self._db.write() as session:
            row = self._step(session, name)
            if row is None:
                return
            row.state, row.detail, row.ended_at = state, detail, now()
            if state is StepState.DONE and row.progress is not None:
                row.progress = 1.0
            self._event(session, "operation.step", f"{name}: {detail or state}")

    def progress(self, name: str, detail: str, fraction: float) -> None:
        """Note how far a step is."""
        with self._db.write() as session:
            if row := self._step(session, name):
                row.detail, row.progress = detail, fraction

    def note(self, kind: str, message: str) -> None:
        """Write an event of the operation."""
        with self._db.write() as session:
            self._event(session, kind, message)

    def end(self, ending: Ending, error: Problem | None, result: dict[str, object], settle: Settle) -> None:
        """Mark the operation ended and settle what it was about, in one transaction; once only."""
        with self._db.write() as session:
            row = session.get_one(Operation, self._id)
            if row.ended_at is not None:
                return
            row.state = _final_state(ending, error)
            row.error = error.model_dump() if error else None
            row.result = {**row.result, **result}
            row.ended_at = now()
            settle(session, row, ending)
            words = f"{row.verb} {row.state}" + (f": {error.detail}; {error.next_step}" if error else "")
            self._event(session, f"operation.{row.state}", words)

    def _step(self, session: Session, name: str) -> Step | None:
        return session.scalar(select(Step).where(Step.operation_id == self._id, Step.name == name))

    def _event(self, session: Session, kind: str, message: str) -> None:
        row = session.get_one(Operation, self._id)
        record(session, kind, message, node=row.node_id, operation=row.id, project=row.project_id)


def _final_state(ending: Ending, error: Problem | None) -> OperationState:
    if ending is Ending.SUCCEEDED:
        return OperationState.SUCCEEDED
    if error is not None and error.code == "cancelled" and ending is Ending.UNDONE:
        return OperationState.CANCELLED
    return OperationState.FAILED
