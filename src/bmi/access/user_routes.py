"""HTTP of users, and of what they may do in projects."""

from fastapi import APIRouter
from sqlalchemy import select

from bmi.access import service as access
from bmi.access import users
from bmi.access.models import Membership, User
from bmi.access.policy import Action, authorize
from bmi.access.rules import KNOWN, asks
from bmi.api import access as wire
from bmi.api.common import Page
from bmi.db import page
from bmi.http import Origin, Pages, TheService, Who

router = APIRouter(tags=["users"])


@router.post("/users", status_code=201, dependencies=[asks(Action.USER_WRITE)])
def create_user(service: TheService, who: Who, body: wire.UserCreate) -> wire.User:
    """Make a user with a password."""
    authorize(who, Action.USER_WRITE, None, thing="users")
    return _user(users.create(service.parts.db, body))


@router.get("/users", dependencies=[asks(Action.USER_READ)])
def list_users(service: TheService, who: Who, paging: Pages) -> Page[wire.User]:
    """List the users."""
    authorize(who, Action.USER_READ, None, thing="users")
    with service.parts.db.read() as session:
        rows, following = page(session, select(User), User, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[_user(row) for row in rows], next=following)


@router.get("/users/{user}", dependencies=[asks(Action.USER_READ)])
def show_user(service: TheService, who: Who, user: str) -> wire.User:
    """Show a user."""
    authorize(who, Action.USER_READ, None, thing="users")
    with service.parts.db.read() as session:
        return _user(users.find_user(session, user))


@router.patch("/users/{user}", dependencies=[asks(Action.USER_WRITE)])
def change_user(service: TheService, who: Who, user: str, body: wire.UserChange) -> wire.User:
    """Make a user an admin or not, or disable him, which ends his sessions."""
    authorize(who, Action.USER_WRITE, None, thing="users")
    with service.parts.db.write() as session:
        return _user(users.change(session, user, body))


@router.delete("/users/{user}", status_code=204, dependencies=[asks(Action.USER_WRITE)])
def delete_user(service: TheService, who: Who, user: str) -> None:
    """Remove a user, with sessions, memberships and tokens."""
    authorize(who, Action.USER_WRITE, None, thing="users")
    with service.parts.db.write() as session:
        users.remove(session, user)


@router.put("/users/{user}/password", status_code=204, dependencies=[asks(Action.USER_WRITE)])
def set_password(service: TheService, who: Who, user: str, body: wire.PasswordSet) -> None:
    """Give a user a new password; all sessions end."""
    authorize(who, Action.USER_WRITE, None, thing="users")
    users.set_password(service.parts.db, user, body.password.get_secret_value())


@router.put("/password", status_code=204, dependencies=[KNOWN])
def change_password(service: TheService, who: Who, origin: Origin, body: wire.PasswordChange) -> None:
    """Change one's own password; all other sessions end."""
    parts = service.parts
    users.change_own_password(parts.db, parts.settings.access, who, body, origin)


@router.get("/projects/{project}/members", dependencies=[asks(Action.MEMBERSHIP_READ)])
def list_project_members(service: TheService, who: Who, project: str, paging: Pages) -> Page[wire.Member]:
    """List the users of a project."""
    with service.parts.db.read() as session:
        row = access.owner(session, who, Action.MEMBERSHIP_READ, project)
        query = select(Membership).where(Membership.project_id == row.id)
        rows, following = page(session, query, Membership, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[_member(row) for row in rows], next=following)


@router.put("/projects/{project}/members/{user}", dependencies=[asks(Action.MEMBERSHIP_WRITE)])
def set_project_member(
    service: TheService, who: Who, project: str, user: str, body: wire.MemberSet
) -> wire.Member:
    """Say what a user may do in a project from now on."""
    with service.parts.db.write() as session:
        row = access.owner(session, who, Action.MEMBERSHIP_WRITE, project)
        return _member(users.set_member(session, row, user, body.role))


@router.delete(
    "/projects/{project}/members/{user}", status_code=204, dependencies=[asks(Action.MEMBERSHIP_WRITE)]
)
def remove_project_member(service: TheService, who: Who, project: str, user: str) -> None:
    """Take away what a user may do in a project."""
    with service.parts.db.write() as session:
        users.remove_member(session, access.owner(session, who, Action.MEMBERSHIP_WRITE, project), user)


def _user(row: User) -> wire.User:
    return wire.User(
        id=row.id,
        name=row.name,
        admin=row.admin,
        disabled=row.disabled,
        provider=row.issuer,
        created_at=row.created_at,
    )


def _member(row: Membership) -> wire.Member:
    return wire.Member(user=row.user.name, role=row.role, provided=row.provided, created_at=row.created_at)
