"""Writes the audit trail, reads it, and removes what is too old in the one way that the database lets."""

import os
import pwd
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.api.audit import AuditEntry, Outcome
from bmi.audit.models import Audit, AuditRetention
from bmi.audit.trail import Note, Trail
from bmi.db import Db
from bmi.errors import BadRequest
from bmi.ids import new_id

LEAST_DAYS = 30
"""No line is removed before it has this age; the triggers of the database know it, too."""
_MOST_DAYS = 36_500

REFUSED = (401, 403, 404, 429)
_LONGEST = 200  # characters of what a caller wrote
_LOGIN = Path("/proc/self/loginuid")  # user id that sudo and su leave alone; proc_pid_loginuid(5)
_NOBODY = 2**32 - 1  # nobody has logged in
_BATCH = 1000  # lines removed in one transaction: nobody waits long for it


def line(
    trail: Trail,
    *,
    route: str,
    path: Sequence[str],
    address: str,
    status: int,
    request: UUID,
    operation: UUID | None,
) -> Audit:
    """Return the line about a request.

    Args:
        trail: What became known about it.
        route: Method and pattern of its path.
        path: The things that the path names, in words.
        address: Where it came from.
        status: HTTP status of the answer.
        request: The request's id.
        operation: The operation that it asked for.
    """
    outcome = Outcome.DONE if status < 400 else Outcome.REFUSED if status in REFUSED else Outcome.FAILED
    note = _main(trail.notes, outcome)
    project = note.project if note else None
    if project is None or outcome is Outcome.REFUSED:
        project = trail.project  # no tenant reads of another one's vain attempts
    return Audit(
        caller=trail.caller,
        token_id=trail.token,
        action=note.action if note else route,
        route=route,
        thing=_printable(", ".join(_things(trail, note, path, project, outcome))),
        project_id=project,
        address=_printable(address),
        outcome=outcome,
        status=status,
        code=trail.code,
        request_id=request,
        operation_id=operation,
    )


def write_local(db: Db, action: str, thing: str) -> None:
    """Write a line about a command that opened the database by itself."""
    with db.write() as session:
        session.add(_local(action, thing))


def views(session: Session, rows: Sequence[Audit]) -> list[AuditEntry]:
    """Return lines as they go over the wire."""
    wanted = {row.project_id for row in rows if row.project_id}
    query = select(Project.id, Project.name).where(Project.id.in_(wanted))
    names = {row.id: row.name for row in session.execute(query)}
    return [
        AuditEntry(
            id=row.id,
            at=row.at,
            caller=row.caller,
            token_id=row.token_id,
            action=row.action,
            route=row.route,
            thing=row.thing,
            project=names.get(row.project_id, str(row.project_id)) if row.project_id else None,
            address=row.address,
            outcome=row.outcome,
            status=row.status,
            code=row.code,
            request_id=row.request_id,
            operation_id=row.operation_id,
        )
        for row in rows
    ]


def prune(db: Db, days: int) -> tuple[int, datetime]:
    """Remove the lines older than some days; that it was done becomes a line itself, before anything is removed.

    Returns:
        How many were removed, and before which time.

    Raises:
        BadRequest: Younger lines would be removed than may be.
    """
    if days < LEAST_DAYS:
        raise BadRequest(
            f"the audit trail is kept for {LEAST_DAYS} days at least", next_step=f"give {LEAST_DAYS} or more"
        )
    if days > _MOST_DAYS:
        raise BadRequest(f"no line is {days} days old", next_step=f"give {_MOST_DAYS} at the most")
    with db.write() as session:
        before = db.clock(session) - timedelta(days=days)  # by the clock that the triggers go by
        session.add(AuditRetention(by=_user(), before=before))
        session.add(_local("audit.prune", f"lines before {before:%Y-%m-%d %H:%M:%S} UTC"))
    removed = 0
    while True:
        with db.write() as session:
            old = select(Audit.id).where(Audit.at < before).order_by(Audit.id).limit(_BATCH)
            ids = list(session.scalars(old))
            session.execute(delete(Audit).where(Audit.id.in_(ids)))
        removed += len(ids)
        if len(ids) < _BATCH:
            return removed, before


def _local(action: str, thing: str) -> Audit:
    return Audit(
        caller=f"local user {_user()}",
        action=action,
        route="command",
        thing=_printable(thing),
        address="local",
        outcome=Outcome.DONE,
        status=0,
        request_id=new_id(),
    )


def _user() -> str:
    """Return who runs this process, and who had logged in to do so; the environment is not asked."""
    own, login = os.getuid(), _NOBODY
    with suppress(OSError, ValueError):
        login = int(_LOGIN.read_text())
    if login in (own, _NOBODY):
        return _name(own)
    return f"{_name(own)} (logged in as {_name(login)})"


def _name(user: int) -> str:
    with suppress(KeyError):
        return pwd.getpwuid(user).pw_name
    return str(user)


def _main(notes: Sequence[Note], outcome: Outcome) -> Note | None:
    """Return what the request was about: the refused question, else the first that is not about reading."""
    if outcome is Outcome.REFUSED:
        return notes[-1] if notes else None
    changing = (note for note in notes if not note.action.endswith(".read"))
    return next(changing, notes[-1] if notes else None)


def _things(
    trail: Trail, main: Note | None, path: Sequence[str], project: UUID | None, outcome: Outcome
) -> list[str]:
    """Return what a request was about, each thing once: what it makes comes first."""
    if outcome is Outcome.REFUSED:
        return list(dict.fromkeys([*path, *([main.thing] if main else [])]))
    # A manager of the line's project reads nothing here that belongs to another one.
    notes = [note.thing for note in trail.notes if note is main or note.project in (None, project)]
    return list(dict.fromkeys([*trail.made, *path, *notes]))


def _printable(text: str) -> str:
    return "".join(character for character in text if character.isprintable())[:_LONGEST]
