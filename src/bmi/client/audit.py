"""Calls about the audit trail."""

from collections.abc import Iterator
from datetime import datetime

from bmi.api.audit import AuditEntry, Outcome
from bmi.client.transport import Transport


class AuditCalls:
    """Who changed what, and who was refused."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def list(
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        caller: str | None = None,
        outcome: Outcome | None = None,
        project: str | None = None,
        limit: int | None = None,
    ) -> Iterator[AuditEntry]:
        """Go through the trail, oldest first, page after page as it is needed.

        Args:
            since: Only from this time on.
            until: Only before this time.
            caller: Only what this one asked for.
            outcome: Only what ended so.
            project: Only what this project was concerned by; its name, or its id once it is gone.
            limit: How many at the most; all if None.
        """
        query = {
            "since": since.isoformat() if since else None,
            "until": until.isoformat() if until else None,
            "caller": caller,
            "outcome": outcome,
            "project": project or self._transport.project,
        }
        return self._transport.items(["audit"], AuditEntry, query=query, limit=limit)
