"""Operations, their steps and events on the wire."""

from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from bmi.api.common import Problem, Response


class OperationState(StrEnum):
    """Where an operation is."""

    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (OperationState.SUCCEEDED, OperationState.FAILED, OperationState.CANCELLED)


class Ending(StrEnum):
    """How an operation left what it was about."""

    SUCCEEDED = "succeeded"
    UNDONE = "undone"
    """It failed or was cancelled, and everything is as it was before."""
    STANDING = "standing"
    """It failed or was cancelled at a point from which nothing is undone; it can be asked for again."""
    STUCK = "stuck"
    """It failed, and undoing failed too."""


class StepState(StrEnum):
    """Where a step of an operation is."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    UNDONE = "undone"


class Step(Response):
    """One step of an operation."""

    name: str
    state: StepState
    started_at: datetime
    ended_at: datetime | None
    detail: str = ""
    progress: float | None = None
    """From 0 to 1, where the step can tell."""


class Operation(Response):
    """One long-running change asked for by someone."""

    id: UUID
    verb: str
    subject: str
    """What it is about, in words: `node n1`."""
    state: OperationState
    project: str | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    steps: list[Step]
    error: Problem | None = None
    result: dict[str, Any] = {}
    ending: Ending | None = None
    """How it left what it was about; none as long as it runs."""
    retry_of: UUID | None = None
    """The operation that this one repeats."""


class Event(Response):
    """One line of a node's or operation's history."""

    id: UUID
    at: datetime
    kind: str
    """Dotted, stable: `dhcp.ack`, `iscsi.login`, `operation.step`."""
    message: str
    node: str | None = None
    operation: UUID | None = None
