"""Events: the history of nodes and operations, one line each."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey
from sqlalchemy.orm import Mapped, Session, mapped_column, relationship

from bmi.db import Table, now
from bmi.nodes.models import Node


class Event(Table):
    """One line of a node's or operation's history."""

    __tablename__ = "events"

    at: Mapped[datetime] = mapped_column(default=now)
    kind: Mapped[str]
    message: Mapped[str]
    node_id: Mapped[UUID | None] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), index=True)
    operation_id: Mapped[UUID | None] = mapped_column(
        ForeignKey("operations.id", ondelete="CASCADE"), index=True
    )
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)

    node: Mapped[Node | None] = relationship(lazy="joined")


def record(
    session: Session,
    kind: str,
    message: str,
    *,
    node: UUID | None = None,
    operation: UUID | None = None,
    project: UUID | None = None,
) -> None:
    """Write one line of a node's or operation's history.

    Args:
        session: The transaction that it is written in.
        kind: Stable and dotted, such as `dhcp.ack`.
        message: For people.
        node: The node whose history it belongs to.
        operation: The operation whose history it belongs to.
        project: The project that may read it.
    """
    session.add(Event(kind=kind, message=message, node_id=node, operation_id=operation, project_id=project))
