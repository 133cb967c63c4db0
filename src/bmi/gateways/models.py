"""Tables of gateways and of what they are asked to do."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ForeignKey, Index
from sqlalchemy.orm import Mapped, mapped_column

from bmi.db import Table, now


class Gateway(Table):
    """A host that runs targets and boot services."""

    __tablename__ = "gateways"

    name: Mapped[str] = mapped_column(unique=True)
    number: Mapped[int] = mapped_column(unique=True)
    """From 1 on. On every network the gateway has an address of its own: the last but `number - 1`."""
    seen_at: Mapped[datetime] = mapped_column(default=now)
    """When it was last heard of, by the database's clock."""
    held_by_id: Mapped[UUID | None] = mapped_column(ForeignKey("gateways.id"))
    """The gateway that acts for it, with its addresses and exports, because it died; none if it acts itself."""
    created_at: Mapped[datetime] = mapped_column(default=now)


class Order(Table):
    """What a gateway is asked to do to its daemons, by a process that is not this gateway.

    An order says which thing is to be made equal to the database, and nothing else; so doing it twice is
    harmless, and whoever acts for the gateway can do it.
    """

    __tablename__ = "orders"
    __table_args__ = (Index("ix_orders_open", "ended_at", "gateway_id"),)

    gateway_id: Mapped[UUID] = mapped_column(ForeignKey("gateways.id", ondelete="CASCADE"))
    verb: Mapped[str]
    subject: Mapped[UUID]
    created_at: Mapped[datetime] = mapped_column(default=now)
    ended_at: Mapped[datetime | None]
    answer: Mapped[dict[str, Any] | None]
    error: Mapped[dict[str, Any] | None]
