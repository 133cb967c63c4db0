"""Use cases of users, of what they may do in projects, and of their tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import delete, exists, or_, select
from sqlalchemy.orm import Session

from bmi.access import passwords, throttle
from bmi.access.models import LogIn, Membership, Project, Token, User
from bmi.access.policy import RANK, Action, Caller, authorize
from bmi.access.secrets import digest, new_secret
from bmi.access.service import as_id, find, find_owned, flush_new, owner
from bmi.api import access as wire
from bmi.api.access import Role
from bmi.audit import trail
from bmi.db import Db
from bmi.errors import BadRequest, NotAllowed, WrongState
from bmi.settings import Access


def find_user(session: Session, ref: str) -> User:
    """Find a user by name or id.

    Raises:
        NotFound: There is none.
    """
    return find(session, User, ref, thing="user", limit_to=None)


def create(db: Db, request: wire.UserCreate) -> User:
    """Make a user with a password.

    Raises:
        AlreadyExists: There is one of that name.
        TooManyAttempts: Too many passwords are being hashed at this moment.
    """
    hashed = passwords.hashed(request.password.get_secret_value())  # takes a while: before the transaction
    with db.write() as session:
        row = User(name=request.name, password=hashed, admin=request.admin)
        session.add(row)
        flush_new(session, f"user {request.name}")
        session.refresh(row)
        return row


def change(session: Session, ref: str, request: wire.UserChange) -> User:
    """Say whether a user is an admin, and whether disabled, which ends his sessions.

    Raises:
        NotFound: There is none.
        BadRequest: It is for the provider to say whether he is an admin.
        WrongState: There would be no admin left.
    """
    row = find_user(session, ref)
    with _keeping_an_admin(session):
        if request.admin is not None and request.admin != row.admin:
            if row.issuer is not None:
                raise BadRequest(
                    f"whether user {row.name} is an admin comes from groups of {row.issuer}",
                    next_step="change the groups there, or setting oidc.groups",
                )
            row.admin = request.admin
        if request.disabled is not None:
            row.disabled = request.disabled
            if row.disabled:
                end_sessions(session, row.id)
    return row


def remove(session: Session, ref: str) -> None:
    """Remove a user, with his sessions, memberships and tokens.

    Raises:
        NotFound: There is none.
        WrongState: There would be no admin left.
    """
    with _keeping_an_admin(session):
        session.delete(find_user(session, ref))


def set_password(db: Db, ref: str, password: str) -> None:
    """Give a user a new password; his sessions end.

    Raises:
        NotFound: There is none.
        BadRequest: He has no password here.
        TooManyAttempts: Too many passwords are being hashed at this moment.
    """
    hashed = passwords.hashed(password)
    with db.write() as session:
        row = find_user(session, ref)
        _require_password(row)
        row.password = hashed
        end_sessions(session, row.id)


def change_own_password(
    db: Db, settings: Access, caller: Caller, request: wire.PasswordChange, address: str
) -> None:
    """Change the caller's own password; his other sessions end.

    Args:
        db: The database.
        settings: How often one may mistype.
        caller: Who asks.
        request: The old password and the new one.
        address: Where the request comes from.

    Raises:
        BadRequest: The old one is wrong, this is no session of a user, or he has no password here.
        TooManyAttempts: Too many were wrong, or too many are being hashed at this moment.
    """
    if caller.user is None or caller.session is None:
        raise BadRequest("a token has no password", next_step="log in first: bmi login URL --user NAME")
    with db.read() as session:
        row = session.get_one(User, caller.user)
    _require_password(row)
    rates = throttle.rates(settings, row.name, address)
    throttle.take(db, rates)
    wrong = BadRequest("the old password is wrong", next_step="try again, or ask an admin for a new one")
    if not passwords.right(request.old.get_secret_value(), row.password):
        raise wrong
    hashed = passwords.hashed(request.new.get_secret_value())
    with db.write() as session:
        fresh = session.get_one(User, caller.user)
        if fresh.password != row.password:
            raise wrong
        throttle.give_back(session, rates)
        fresh.password = hashed
        end_sessions(session, caller.user, but=caller.session)


def end_sessions(session: Session, user: UUID, *, but: UUID | None = None) -> None:
    """End the sessions of a user."""
    statement = delete(LogIn).where(LogIn.user_id == user)
    session.execute(statement if but is None else statement.where(LogIn.id != but))


@contextmanager
def _keeping_an_admin(session: Session) -> Iterator[None]:
    """Refuse what leaves nobody who can let others in, where there was somebody.

    Raises:
        WrongState: No enabled user and no token without an end is an admin any more.
    """
    had = _has_an_admin(session)
    yield
    session.flush()
    if had and not _has_an_admin(session):
        raise WrongState(
            "there would be no admin left", next_step="make another one first: bmi user create NAME --admin"
        )


def _has_an_admin(session: Session) -> bool:
    robots = exists().where(Token.role == Role.ADMIN, Token.user_id.is_(None), Token.expires_at.is_(None))
    people = exists().where(User.admin, User.disabled.is_(False))
    return bool(session.scalar(select(or_(robots, people))))


# --- what users may do in projects -------------------------------------------------------------------------


def set_member(session: Session, project: Project, ref: str, role: Role) -> Membership:
    """Say what a user may do in a project from now on.

    Raises:
        NotFound: There is no such user.
        BadRequest: That is no role in a project.
    """
    if role is Role.ADMIN:
        raise BadRequest(
            "an admin is one in every project",
            next_step="give the role viewer, member or manager; or: bmi user change USER --admin",
        )
    user = find_user(session, ref)
    row = _membership(session, project, user)
    if row is None:
        row = Membership(user=user, project=project, role=role)
        session.add(row)
    row.role, row.provided = role, False
    session.flush()
    session.refresh(row)
    trail.makes(f"{role} {user.name}")
    return row


def remove_member(session: Session, project: Project, ref: str) -> None:
    """Take away what a user may do in a project.

    Raises:
        NotFound: There is no such user.
        WrongState: He is no member of it.
    """
    user = find_user(session, ref)
    row = _membership(session, project, user)
    if row is None:
        raise WrongState(
            f"user {user.name} is no member of project {project.name}",
            next_step=f"see: bmi project members {project.name}",
        )
    session.delete(row)


def _membership(session: Session, project: Project, user: User) -> Membership | None:
    query = select(Membership).where(Membership.user_id == user.id, Membership.project_id == project.id)
    return session.scalar(query)


# --- tokens ------------------------------------------------------------------------------------------------


def create_token(session: Session, caller: Caller, request: wire.TokenCreate) -> tuple[Token, str]:
    """Make a token and return it with its secret, which is not kept. A user's belongs to him.

    Raises:
        BadRequest: An admin's token for one project, or another role's for none.
        NotAllowed: It would be allowed more than the caller.
        AlreadyExists: There is one of that name.
    """
    if request.role is Role.ADMIN:
        if request.project is not None:
            raise BadRequest(
                "an admin's token is good for all projects", next_step="leave the project out, or give a role"
            )
        authorize(caller, Action.PROJECT_WRITE, None, thing="the system")
        project = None
    else:
        # For himself, everybody makes tokens: they may no more than he.
        action = Action.PROJECT_READ if caller.session else Action.TOKEN_WRITE
        project = owner(session, caller, action, request.project)
        own = Role.ADMIN if caller.admin else caller.roles.get(project.id)
        if own is None or RANK[request.role] > RANK[own]:
            raise NotAllowed(
                f"a token of project {project.name} with the role {request.role} would be allowed more than you, "
                f"who are {own or 'none there'}",
                next_step=f"give it the role {own}" if own else "ask a manager of the project",
            )
    secret = new_secret()
    row = Token(
        name=request.name,
        user_id=caller.user,
        digest=digest(secret),
        role=request.role,
        project_id=project.id if project else None,
        expires_at=request.expires_at,
    )
    session.add(row)
    flush_new(session, f"token {request.name}")
    trail.makes(f"role {request.role}")
    session.refresh(row)
    return row, secret


def delete_token(session: Session, caller: Caller, ref: str) -> None:
    """Revoke a token: one's own, or one of a project that one manages.

    Raises:
        NotFound: There is none for this caller.
        NotAllowed: It is of his project, and not his to revoke.
        WrongState: There would be no admin left.
    """
    row = None
    if caller.session is not None:  # a token of his is not good for ending the others
        same = or_(Token.name == ref, Token.id == as_id(ref))
        row = session.scalar(select(Token).where(Token.user_id == caller.user, same))
    if row is None:
        row = find_owned(session, caller, Token, ref, Action.TOKEN_WRITE, project=None)
    with _keeping_an_admin(session):
        session.delete(row)


def _require_password(row: User) -> None:
    if row.issuer is not None:
        raise BadRequest(
            f"user {row.name} has no password here, but logs in by {row.issuer}",
            next_step="change the password there",
        )
