"""Tables of operations and their steps."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, ForeignKey, Index, UniqueConstraint, text
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.access.models import Project
from bmi.api.operations import Ending, OperationState, StepState
from bmi.db import Table, now

_RUNNING = text("ended_at IS NULL")


def _one_running(column: str) -> Index:
    """Return an index that lets one running operation at a time claim a thing."""
    return Index(
        f"uq_operations_running_{column}",
        column,
        unique=True,
        sqlite_where=_RUNNING,
        postgresql_where=_RUNNING,
    )


class Operation(Table):
    """One long-running change. Its id is also the id of the durable workflow that carries it out.

    The columns node_id to second_node_id are claims: while the operation runs, no other one may claim the same
    thing. They are plain ids, so that the history survives the things.
    """

    __tablename__ = "operations"
    __table_args__ = (
        _one_running("node_id"),
        _one_running("disk_id"),
        _one_running("image_id"),
        _one_running("network_id"),
        _one_running("second_node_id"),
        Index("ix_operations_running", "ended_at", "id"),
    )

    verb: Mapped[str]
    subject: Mapped[str]
    state: Mapped[OperationState] = mapped_column(default=OperationState.QUEUED)
    project_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("projects.id", ondelete="SET NULL"), index=True
    )
    asked_by: Mapped[str]
    """Name of the token that asked for it."""
    worker: Mapped[str | None]
    """The worker that carries it out; none as long as nobody has taken it."""
    claim: Mapped[int] = mapped_column(default=0)
    """Raised each time that a worker begins it or takes it up; who has an older one has lost it."""
    node_id: Mapped[UUID | None]
    disk_id: Mapped[UUID | None]
    image_id: Mapped[UUID | None]
    network_id: Mapped[UUID | None]
    second_node_id: Mapped[UUID | None]
    """Another node that it changes too."""
    request: Mapped[dict[str, Any]]
    result: Mapped[dict[str, Any]] = mapped_column(default=dict)
    error: Mapped[dict[str, Any] | None]
    ending: Mapped[Ending | None]
    """How it left what it was about."""
    asked: Mapped[dict[str, Any] | None] = mapped_column(JSON(none_as_null=True))
    """What is needed to ask for it again; none once it has succeeded."""
    retry_of: Mapped[UUID | None]
    """The operation that this one repeats."""
    created_at: Mapped[datetime] = mapped_column(default=now)
    started_at: Mapped[datetime | None]
    ended_at: Mapped[datetime | None]

    project: Mapped[Project | None] = relationship(lazy="joined")
    steps: Mapped[list["Step"]] = relationship(
        lazy="selectin", order_by="Step.position", cascade="all, delete-orphan"
    )

    def did(self, step: str) -> bool:
        """Say whether a step was done, and not undone."""
        return any(row.name == step and row.state is StepState.DONE for row in self.steps)


class Step(Table):
    """One step of an operation."""

    __tablename__ = "steps"
    __table_args__ = (UniqueConstraint("operation_id", "name"),)

    operation_id: Mapped[UUID] = mapped_column(ForeignKey("operations.id", ondelete="CASCADE"))
    position: Mapped[int]
    name: Mapped[str]
    state: Mapped[StepState] = mapped_column(default=StepState.RUNNING)
    detail: Mapped[str] = mapped_column(default="")
    progress: Mapped[float | None]
    started_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]


class Worker(Table):
    """A process that carries operations out."""

    __tablename__ = "workers"

    name: Mapped[str] = mapped_column(unique=True)
    seen_at: Mapped[datetime] = mapped_column(default=now)
    """When it was last heard of, by the database's clock."""
