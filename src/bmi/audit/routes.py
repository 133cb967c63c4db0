"""HTTP of the audit trail."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from sqlalchemy import select

from bmi.access.policy import Action, authorize_somewhere
from bmi.access.rules import asks
from bmi.access.service import as_id, visible
from bmi.api.audit import AuditEntry, Outcome
from bmi.api.common import Page
from bmi.audit.models import Audit
from bmi.audit.service import views
from bmi.db import page
from bmi.errors import BadRequest
from bmi.http import InProject, Pages, TheService, Who

router = APIRouter(tags=["audit"])


@router.get("/audit", dependencies=[asks(Action.AUDIT_READ)])
def list_audit(
    service: TheService,
    who: Who,
    paging: Pages,
    project: InProject = None,
    since: Annotated[datetime | None, Query(description="Only from this time on")] = None,
    until: Annotated[datetime | None, Query(description="Only before this time")] = None,
    caller: Annotated[str | None, Query(description="Only what this one asked for")] = None,
    outcome: Outcome | None = None,
) -> Page[AuditEntry]:
    """List what was changed and what was refused, oldest first; a manager sees his project's."""
    authorize_somewhere(who, Action.AUDIT_READ, thing="the audit trail")
    with service.parts.db.read() as session:
        query = select(Audit)
        if who.admin and project is not None and (gone := as_id(project)):
            query = query.where(Audit.project_id == gone)  # the trail outlives projects
        elif (limit := visible(session, who, Audit, Action.AUDIT_READ, project)) is not None:
            query = query.where(limit)
        if since is not None:
            query = query.where(Audit.at >= _utc(since))
        if until is not None:
            query = query.where(Audit.at < _utc(until))
        if caller is not None:
            query = query.where(Audit.caller == caller)
        if outcome is not None:
            query = query.where(Audit.outcome == outcome)
        rows, following = page(session, query, Audit, limit=paging.limit, cursor=paging.cursor)
        return Page(items=views(session, rows), next=following)


def _utc(time: datetime) -> datetime:
    try:
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except OverflowError as error:
        raise BadRequest(f"{time} is no time in UTC", next_step="give one of these years") from error
