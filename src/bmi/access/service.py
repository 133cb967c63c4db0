"""Use cases of projects and tokens, and how a thing is found by its name."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from sqlalchemy import ColumnElement, Select, and_, exists, or_, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from bmi.access.models import Installation, Project, Token, User
from bmi.access.policy import OFFERED, READABLE_BY_ALL, Action, Caller, authorize, require_declared, unknown
from bmi.access.secrets import digest, new_secret
from bmi.api.access import Role
from bmi.audit import trail
from bmi.db import Db, Table
from bmi.errors import AlreadyExists, BadRequest, InUse, NotAllowed, NotFound

T = TypeVar("T", bound=Table)

ADMIN_TOKEN_FILE = "admin.token"  # noqa: S105


def installation(db: Db) -> UUID:
    """Return this installation's id; the first call on an empty database chooses it."""
    with db.write() as session:
        row = session.scalar(select(Installation))
        if row is None:
            row = Installation()
            session.add(row)
            session.flush()
        return row.id


def bootstrap(db: Db, state_dir: Path) -> Path | None:
    """Make the first admin's token on a database without any admin, and return the file with its secret."""
    with db.write() as session:
        robots = exists().where(Token.role == Role.ADMIN, Token.user_id.is_(None))
        people = exists().where(User.admin, User.disabled.is_(False))
        if session.scalar(select(or_(robots, people))):
            return None
        secret = new_secret()
        session.add(Token(name="admin", digest=digest(secret), role=Role.ADMIN))
        file = state_dir / ADMIN_TOKEN_FILE
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(secret + "\n")
        return file


def owner(session: Session, caller: Caller, action: Action, project: str | None) -> Project:
    """Return the project that a new thing will belong to.

    Args:
        session: The session.
        caller: Who asks.
        action: What for.
        project: Name or id, if the caller named one; a project's token implies its own.

    Raises:
        BadRequest: None was named, and the token implies none.
    """
    if project is None:
        if caller.project is None:
            raise BadRequest(
                "no project was named"
                if caller.admin or caller.roles
                else f"{caller.name} belongs to no project yet",
                next_step="name one with --project"
                if caller.admin or caller.roles
                else "ask a manager of a project, or an admin, to add you: bmi project grant",
            )
        found = session.get_one(Project, caller.project)
    else:
        found = find(session, Project, project, thing="project", limit_to=None)
    # By the caller's own word: an id must not tell a stranger the project's name.
    authorize(caller, action, found.id, thing=f"project {project or found.name}")
    return found


def other_project(session: Session, caller: Caller, ref: str) -> Project:
    """Find a project that something is to be shared with.

    Only an admin may call it by its name: names can be guessed, and who the other tenants are is nobody's business.
    A project's id is known to those whom its members told it.

    Raises:
        NotFound: There is none of that id; or the caller is no admin, and it is no id.
    """
    if id := as_id(ref):
        found = session.get(Project, id)
    else:
        found = session.scalar(select(Project).where(Project.name == ref)) if caller.admin else None
    if found is None:
        raise NotFound(
            f"there is no project {ref}",
            next_step="name it by its id, which its members see in: bmi project show NAME",
        )
    return found


def find(
    session: Session,
    table: type[T],
    ref: str,
    *,
    thing: str,
    limit_to: ColumnElement[bool] | None,
    trashed: bool = False,
) -> T:
    """Find a thing by its name, by PROJECT:NAME or by its id.

    Of what is limited to one project, its own comes before what belongs to nobody.

    Args:
        session: The session.
        table: Where it is kept.
        ref: Name or id.
        thing: What it is, in a word.
        limit_to: What the caller can see; everything if None.
        trashed: Whether names are those of what is in the trash, and not of the rest.

    Raises:
        NotFound: There is none.
        BadRequest: There are several of that name, in several projects.
    """
    query = select(table).where(_meant(table, ref, trashed=trashed))
    if limit_to is not None:
        query = query.where(limit_to)
    rows = list(session.scalars(query.limit(3)))
    if not rows:
        raise unknown(f"{thing} {ref}")
    if len(rows) > 1 and limit_to is not None:
        rows = [row for row in rows if getattr(row, "project_id", None) is not None] or rows
    if len(rows) > 1:
        raise BadRequest(
            f"there are several {thing}s named {ref}",
            next_step="name the project with --project, or use the id",
        )
    return rows[0]


def find_owned(
    session: Session,
    caller: Caller,
    table: type[T],
    ref: str,
    action: Action,
    *,
    project: str | None,
    trashed: bool = False,
) -> T:
    """Find a thing that belongs to a project, for a caller who wants to do something to it.

    What another project offers has to be called PROJECT:NAME, or by its id: nobody can make a name mean something
    else in a project that is not his.

    Raises:
        NotFound: There is none that the caller may know of.
        NotAllowed: The caller may see it, but not do this.
        BadRequest: There are several of that name, in several projects.
    """
    thing = table.__name__.lower()
    exact = ":" in ref or as_id(ref) is not None
    # Also where he may not do this: that is for the policy to say, of what he sees.
    reader = _reader(session, caller, project)
    limit = (_seen if exact else _home)(table, action, reader)
    row = find(session, table, ref, thing=thing, limit_to=limit, trashed=trashed)
    owner_id = getattr(row, "project_id", None)
    authorize(caller, action, owner_id, thing=f"{thing} {ref}", offered=_offered(table, action))
    return row


def find_own(
    session: Session,
    caller: Caller,
    table: type[T],
    ref: str,
    *,
    write: Action,
    read: Action,
    project: str | None,
    may: str,
    next_step: str,
) -> T:
    """Find a thing that a caller may change, and not only use because it is offered to him.

    Args:
        session: The session.
        caller: Who asks.
        table: Where it is kept.
        ref: Name or id.
        write: What he wants to do.
        read: What he may do with what is offered.
        project: The project that he named, if any.
        may: What he may do with what is offered, in words.
        next_step: What he can do where that is all.

    Raises:
        NotFound: There is none that the caller may know of.
        NotAllowed: The caller may use it, but not change it.
    """
    try:
        return find_owned(session, caller, table, ref, write, project=project)
    except NotFound as nothing:
        try:
            found: Any = find_owned(session, caller, table, ref, read, project=project)
        except NotFound:
            raise nothing from None
    thing = f"{table.__name__.lower()} {ref}"
    whose = f"project {found.project.name}" if found.project else "everybody"
    if caller.admin:
        raise NotFound(
            f"{thing} belongs to {whose}, not to project {project}", next_step="name no project, or its own"
        )
    raise NotAllowed(f"{thing} belongs to {whose}: you may {may}, not change it", next_step=next_step)


def visible(
    session: Session, caller: Caller, table: type[Table], action: Action, project: str | None
) -> ColumnElement[bool] | None:
    """Return the condition that limits a list to what a caller may do something to; None for everything."""
    reader = _reader(session, caller, project)
    if reader is not None and not caller.admin:
        allowed = caller.projects(action)
        reader = [id for id in reader if id in allowed]
    return _seen(table, action, reader)


def _seen(table: type[Table], action: Action, reader: Sequence[UUID] | None) -> ColumnElement[bool] | None:
    """Return the condition for what some projects see; None for everything."""
    home = _home(table, action, reader)
    if home is None or not reader or not _offered(table, action):
        return home
    offers: Any = table
    return or_(home, offers.offered_to(reader))


def _home(table: type[Table], action: Action, reader: Sequence[UUID] | None) -> ColumnElement[bool] | None:
    """Return the condition for what some projects see without anybody's offering it; None for everything."""
    if reader is None:
        return None
    column: ColumnElement[Any] = getattr(table, "project_id")  # noqa: B009 - only mypy needs the detour
    own = column.in_(reader)
    return or_(own, column.is_(None)) if _shared(action) and reader else own


def _reader(session: Session, caller: Caller, project: str | None) -> list[UUID] | None:
    """Return the projects in whose name a caller looks; None for an admin who named none."""
    if project is not None:
        return [owner(session, caller, Action.PROJECT_READ, project).id]
    return None if caller.admin else list(caller.roles)


def select_visible(
    session: Session, caller: Caller, table: type[T], action: Action, project: str | None
) -> Select[T]:
    """Return the query for the rows of a table that a caller sees, of one project if one is named."""
    require_declared(action)
    limit = visible(session, caller, table, action, project)
    return select(table) if limit is None else select(table).where(limit)


def create_project(session: Session, name: str) -> Project:
    """Make a project.

    Raises:
        AlreadyExists: There is one of that name.
    """
    row = Project(name=name)
    session.add(row)
    flush_new(session, f"project {name}")
    return row


def delete_project(session: Session, project: Project) -> None:
    """Remove a project that owns nothing.

    Raises:
        InUse: It still owns something.
    """
    name = project.name  # cannot be read any more once the flush has failed
    session.delete(project)
    try:
        session.flush()
    except IntegrityError as error:
        raise InUse(
            f"project {name} still owns nodes, networks, disks or images",
            next_step="give its nodes back and remove its disks, images and networks first; "
            "what is in the trash too: bmi image delete IMAGE --now",
        ) from error


def flush_new(session: Session, thing: str) -> None:
    """Write what was added, and say so if the name is taken.

    Raises:
        AlreadyExists: There is one of that name.
    """
    trail.makes(thing)
    try:
        session.flush()
    except IntegrityError as error:
        raise AlreadyExists(f"{thing} exists already", next_step="choose another name") from error


def _shared(action: Action) -> bool:
    return action in READABLE_BY_ALL or action is Action.NODE_USE


def _offered(table: type[Table], action: Action) -> bool:
    """Say whether other projects may offer things of a kind for this."""
    return action in OFFERED and hasattr(table, "offered_to")


def _meant(table: type[Table], ref: str, *, trashed: bool) -> ColumnElement[bool]:
    """Return the condition for what a name, PROJECT:NAME or an id stands for."""
    named: Any = table
    if id := as_id(ref):
        return table.id == id
    project, _, name = ref.rpartition(":") if hasattr(table, "project_id") else ("", "", ref)
    meant = [named.name == name]
    if project:
        same = Project.id == id if (id := as_id(project)) else Project.name == project
        meant.append(named.project_id.in_(select(Project.id).where(same)))
    if hasattr(table, "deleted_at"):
        meant.append(named.deleted_at.is_not(None) if trashed else named.deleted_at.is_(None))
    return and_(*meant)


def as_id(ref: str) -> UUID | None:
    """Return the id that a text is, None if it is none."""
    try:
        return UUID(ref)
    except ValueError:
        return None
