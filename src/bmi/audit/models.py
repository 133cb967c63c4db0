"""Tables of the audit trail. Triggers of the database refuse to change or remove their rows."""

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from bmi.api.audit import Outcome
from bmi.db import Table, now


class Audit(Table):
    """One request. References are plain ids: the trail outlives the things."""

    __tablename__ = "audit"
    __table_args__ = (Index("ix_audit_project_id", "project_id", "id"),)

    at: Mapped[datetime] = mapped_column(default=now, index=True)
    caller: Mapped[str | None]
    token_id: Mapped[UUID | None]
    action: Mapped[str]
    """As in the table of rules; the method and the route where the request did not get as far."""
    route: Mapped[str]
    thing: Mapped[str]
    project_id: Mapped[UUID | None]
    address: Mapped[str]
    outcome: Mapped[Outcome]
    status: Mapped[int]
    code: Mapped[str | None]
    request_id: Mapped[UUID]
    operation_id: Mapped[UUID | None]


class AuditRetention(Table):
    """A deliberate removal of old lines: the database lets only what is older than `before` be removed."""

    __tablename__ = "audit_retention"

    at: Mapped[datetime] = mapped_column(default=now)
    by: Mapped[str]
    before: Mapped[datetime]
