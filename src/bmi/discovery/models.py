"""Table of machines that reported themselves."""

from datetime import datetime
from typing import Any

from sqlalchemy.orm import Mapped, mapped_column

from bmi.db import Table, now


class Discovered(Table):
    """A machine that booted on the discovery network, as it told of itself."""

    __tablename__ = "discovered"

    mac: Mapped[str] = mapped_column(unique=True)
    """The card that it booted from."""
    address: Mapped[str]
    """Where its last report came from."""
    facts: Mapped[dict[str, Any]]
    """As `bmi.api.hardware.Hardware`."""
    reports: Mapped[int] = mapped_column(default=1)
    seen_at: Mapped[datetime] = mapped_column(index=True)
    created_at: Mapped[datetime] = mapped_column(default=now)
