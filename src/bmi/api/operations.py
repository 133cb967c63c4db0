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


class Event(Response):
    """One line of a node's or operation's history."""

    id: UUID
    at: datetime
    kind: str
    """Dotted, stable: `dhcp.ack`, `iscsi.login`, `operation.step`."""
    message: str
    node: str | None = None
    operation: UUID | None = None
