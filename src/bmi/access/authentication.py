"""Who asks: what the secret of a token or of a session stands for."""

from datetime import timedelta
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.models import LogIn, Membership, Token, User
from bmi.access.policy import Caller, least_of
from bmi.access.secrets import SESSION, digest
from bmi.api.access import Role
from bmi.audit import trail
from bmi.db import Db
from bmi.errors import NotAuthenticated
from bmi.settings import Access

_TO_THE_MINUTE = timedelta(minutes=1)


def authenticate(db: Db, secret: str, settings: Access) -> Caller:
    """Return whom the secret of a token or of a session stands for.

    Raises:
        NotAuthenticated: It is none, or it has expired, or its user is disabled.
    """
    if secret.startswith(SESSION):
        return _in_session(db, secret, settings)
    with db.read() as session:
        token = session.scalar(select(Token).where(Token.digest == digest(secret)))
        if token is None:
            raise _refused("token")
        name = f"{token.user.name}/{token.name}" if token.user else token.name
        # An expired one too: whoever looks at the trail knows whose it was.
        trail.identified(name, token.id, token.project_id)
        if token.expires_at is not None and token.expires_at <= db.clock(session):
            raise _refused("token")
        if token.user is None:
            return _service(token)
        return _of_user(session, token, token.user, name)


def roles_of(session: Session, user: UUID) -> dict[UUID, Role]:
    """Return what a user may do in which project."""
    rows = session.scalars(select(Membership).where(Membership.user_id == user))
    return {row.project_id: row.role for row in rows}


def caller_of(session: Session, row: LogIn) -> Caller:
    """Return who asks in a session."""
    user = row.user
    return Caller(user.name, admin=user.admin, roles=roles_of(session, user.id), user=user.id, session=row.id)


def _in_session(db: Db, secret: str, settings: Access) -> Caller:
    with db.read() as session:
        row = session.scalar(select(LogIn).where(LogIn.digest == digest(secret)))
        if row is None:
            raise _refused("session")
        found = caller_of(session, row)
        trail.identified(found.name, row.id, found.project)
        clock = db.clock(session)
        if clock >= min(row.expires_at, row.used_at + timedelta(seconds=settings.session_idle)):
            raise _refused("session")
        if row.user.disabled:
            raise _disabled(row.user)
        stale = clock - row.used_at > _TO_THE_MINUTE
    if stale:
        with db.write(alone=False) as session:
            if fresh := session.get(LogIn, row.id):
                fresh.used_at = db.clock(session)
    return found


def _service(token: Token) -> Caller:
    admin = token.role is Role.ADMIN
    roles = {} if token.project_id is None else {token.project_id: token.role}
    return Caller(token.name, admin=admin, roles=roles, token=token.id)


def _of_user(session: Session, token: Token, user: User, name: str) -> Caller:
    """Return who asks with a user's token: it may no more than the user may now."""
    if user.disabled:
        raise _disabled(user)
    if token.role is Role.ADMIN:
        roles = roles_of(session, user.id)
        return Caller(name, admin=user.admin, roles=roles, user=user.id, token=token.id)
    allowed = Role.MANAGER if user.admin else roles_of(session, user.id).get(token.project_id or user.id)
    roles = {token.project_id: least_of(token.role, allowed)} if allowed and token.project_id else {}
    return Caller(name, roles=roles, user=user.id, token=token.id)


def _refused(what: str) -> NotAuthenticated:
    return NotAuthenticated(f"the {what} is unknown or has expired", next_step="log in again: bmi login URL")


def _disabled(user: User) -> NotAuthenticated:
    return NotAuthenticated(f"user {user.name} is disabled", next_step="ask an admin")
