"""How people log in and out."""

import logging
from datetime import timedelta

from pydantic import TypeAdapter
from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from bmi.access import passwords, throttle
from bmi.access.authentication import caller_of
from bmi.access.models import LogIn, Membership, Project, User
from bmi.access.oidc import Identity, Rights
from bmi.access.policy import Caller
from bmi.access.secrets import SESSION, digest, new_secret
from bmi.api import access as wire
from bmi.api.common import Name
from bmi.audit import trail
from bmi.db import Db
from bmi.errors import BadRequest, LoginRefused, NotAuthenticated
from bmi.settings import Access

log = logging.getLogger(__name__)

_NAME: TypeAdapter[str] = TypeAdapter(Name)


def log_in(db: Db, settings: Access, request: wire.LogIn, address: str) -> wire.Session:
    """Begin a session of whoever knows a user's password.

    Who is refused learns neither from the answer nor from its time whether there is such a user.

    Args:
        db: The database.
        settings: How often one may mistype, and how long sessions last.
        request: Name and password.
        address: Where the request comes from.

    Raises:
        NotAuthenticated: Name or password are wrong, or the user is disabled.
        TooManyAttempts: Too many failed under this name or from there, or too many log in at this moment.
    """
    rates = throttle.rates(settings, request.name, address)
    throttle.take(db, rates)
    with db.read() as session:
        user = session.scalar(select(User).where(User.name == request.name))
    right = passwords.right(request.password.get_secret_value(), user.password if user else None)
    if user is not None:  # else it is none, and perhaps a password at the wrong place
        trail.asked("login", f"user {user.name}", None)
    if user is None or not right:
        raise NotAuthenticated("the name or the password is wrong", next_step="try again, or ask an admin")
    with db.write() as session:
        fresh = session.get(User, user.id)
        if fresh is None or fresh.password != user.password:
            raise NotAuthenticated("the password was changed at the same moment", next_step="try again")
        throttle.give_back(session, rates)
        return _begin(db, session, fresh, settings)


def log_in_recognised(db: Db, settings: Access, identity: Identity, rights: Rights) -> wire.Session:
    """Begin a session of somebody whom the provider recognises, with the rights of his groups.

    Raises:
        NotAuthenticated: The user is disabled here.
        LoginRefused: The name is another user's, or none that can be used.
    """
    with db.write() as session:
        same = (User.issuer == identity.issuer, User.subject == identity.subject)
        user = session.scalar(select(User).where(*same))
        if user is None:
            user = _new(session, identity)
        user.admin = rights.admin
        session.flush()
        _provide(session, user, rights)
        return _begin(db, session, user, settings)


def log_out(session: Session, caller: Caller) -> None:
    """End the session that a request is part of.

    Raises:
        BadRequest: It is part of none.
    """
    if caller.session is None:
        raise BadRequest(
            "a token has no session to be ended", next_step="revoke the token: bmi token revoke TOKEN"
        )
    session.execute(delete(LogIn).where(LogIn.id == caller.session))


def sweep_sessions(db: Db, settings: Access) -> None:
    """Remove sessions that have ended."""
    with db.write() as session:
        clock = db.clock(session)
        unused = LogIn.used_at <= clock - timedelta(seconds=settings.session_idle)
        session.execute(delete(LogIn).where((LogIn.expires_at <= clock) | unused))


def _begin(db: Db, session: Session, user: User, settings: Access) -> wire.Session:
    if user.disabled:
        raise NotAuthenticated(f"user {user.name} is disabled", next_step="ask an admin")
    secret, clock = new_secret(SESSION), db.clock(session)
    row = LogIn(
        user=user,
        digest=digest(secret),
        created_at=clock,
        used_at=clock,
        expires_at=clock + timedelta(seconds=settings.session_limit),
    )
    session.add(row)
    session.flush()
    trail.identified(user.name, row.id, caller_of(session, row).project)
    trail.makes(f"session of user {user.name}")
    return wire.Session(user=user.name, secret=secret, expires_at=row.expires_at)


def _new(session: Session, identity: Identity) -> User:
    """Make a user of somebody who comes for the first time; a name that is taken stays whose it is."""
    try:
        _NAME.validate_python(identity.name)
    except ValueError:
        raise LoginRefused(
            "the name that the provider gives is none that can be used here",
            next_step="ask an admin for another oidc.name_claim: of lower-case letters, digits, dots and dashes",
        ) from None
    if session.scalar(select(User.id).where(User.name == identity.name)) is not None:
        raise LoginRefused(
            f"there is another user {identity.name} here", next_step="ask an admin to remove that one"
        )
    user = User(
        name=identity.name, issuer=identity.issuer, subject=identity.subject, password=None, admin=False
    )
    session.add(user)
    return user


def _provide(session: Session, user: User, rights: Rights) -> None:
    """Make a user's memberships those of his groups; what a manager of a project has given stays."""
    rows = {
        row.project_id: row
        for row in session.scalars(select(Membership).where(Membership.user_id == user.id))
    }
    wanted = {}
    for name, role in rights.roles.items():
        project = session.scalar(select(Project).where(Project.name == name))
        if project is None:
            log.warning("setting oidc.groups names project %s, which does not exist", name)
        else:
            wanted[project.id] = role
    for id, role in wanted.items():
        if (row := rows.get(id)) is None:
            session.add(Membership(user_id=user.id, project_id=id, role=role, provided=True))
        elif row.provided:
            row.role = role
    for id, row in rows.items():
        if row.provided and id not in wanted:
            session.delete(row)
    session.flush()
