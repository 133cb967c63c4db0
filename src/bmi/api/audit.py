"""The audit trail on the wire."""

from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pydantic import Field

from bmi.api.common import Response


class Outcome(StrEnum):
    """What became of a request."""

    DONE = "done"
    REFUSED = "refused"
    """Nobody known asked, or one who may not (401, 403, 404, 429)."""
    FAILED = "failed"


class AuditEntry(Response):
    """One request that changed something or was refused."""

    id: UUID
    at: datetime
    caller: str | None = Field(description="Name of who asked; null if nobody known did")
    token_id: UUID | None
    action: str
    route: str = Field(description="Method and pattern of the path")
    thing: str
    project: str | None = Field(description="Its name, or its id once it is gone")
    address: str
    outcome: Outcome
    status: int
    code: str | None
    request_id: UUID
    operation_id: UUID | None = Field(description="The operation that was asked for")
