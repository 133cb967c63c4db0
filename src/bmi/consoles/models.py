"""Tables of consoles: what nodes said, who listens, and what waits to be typed."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import BigInteger, ForeignKey, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column, relationship

from bmi.access.models import Project
from bmi.db import Table, now


class Recording(Table):
    """What a node said from one start by BMI to the next. It belongs to the project that had the node then."""

    __tablename__ = "recordings"
    __table_args__ = (UniqueConstraint("node_id", "number"),)

    node_id: Mapped[UUID] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"))
    project_id: Mapped[UUID | None] = mapped_column(ForeignKey("projects.id", ondelete="CASCADE"), index=True)
    number: Mapped[int]
    """From 1 on, counted for each node."""
    began_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]
    """When the next one began; nothing is added from then on."""
    first: Mapped[int] = mapped_column(BigInteger, default=0)
    """Offset of the first byte that is kept: where there is more than is kept, the oldest goes."""
    size: Mapped[int] = mapped_column(BigInteger, default=0)
    """Bytes that were said."""

    project: Mapped[Project | None] = relationship(lazy="joined")


class Piece(Table):
    """A part of a recording."""

    __tablename__ = "recording_pieces"
    __table_args__ = (UniqueConstraint("recording_id", "start"),)

    recording_id: Mapped[UUID] = mapped_column(ForeignKey("recordings.id", ondelete="CASCADE"))
    start: Mapped[int] = mapped_column(BigInteger)
    """Offset of its first byte."""
    content: Mapped[bytes]


class ConsoleSession(Table):
    """Which worker holds, or tries to get, the session of a node's controller."""

    __tablename__ = "console_sessions"

    node_id: Mapped[UUID] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), unique=True)
    worker: Mapped[str | None]
    """None if nobody does."""
    claim: Mapped[int] = mapped_column(default=0)
    """Raised each time that a worker takes it; who has an older one has lost it."""
    open: Mapped[bool] = mapped_column(default=False)
    problem: Mapped[str | None]
    """Why it is not open."""


class Typed(Table):
    """What waits to be typed on a node's console. It is gone once its worker has it."""

    __tablename__ = "console_input"

    node_id: Mapped[UUID] = mapped_column(ForeignKey("nodes.id", ondelete="CASCADE"), index=True)
    project_id: Mapped[UUID | None]
    """The project that had the node when it was typed; it is for nobody else's system."""
    content: Mapped[str]
    """Base64, sealed by the vault: people type passwords."""
    typed_at: Mapped[datetime] = mapped_column(default=now)
