"""HTTP of projects and tokens."""

from dataclasses import asdict

from fastapi import APIRouter
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.access import service as access
from bmi.access import users
from bmi.access.models import LogIn, Project, Token, User
from bmi.access.policy import Action, authorize, authorize_somewhere
from bmi.access.rules import KNOWN, asks
from bmi.api import access as wire
from bmi.api.common import Page
from bmi.db import page
from bmi.http import Pages, TheService, Who
from bmi.images.quota import use_of

router = APIRouter(tags=["access"])


@router.get("/whoami", dependencies=[KNOWN])
def whoami(service: TheService, who: Who) -> wire.Identity:
    """Say whom the token or the session stands for."""
    with service.parts.db.read() as session:
        projects = session.scalars(select(Project).where(Project.id.in_(who.roles)).order_by(Project.name))
        token = session.get(Token, who.token) if who.token else None
        begun = session.get(LogIn, who.session) if who.session else None
        user = session.get(User, who.user) if who.user else None
        ends = begun or token
        return wire.Identity(
            name=who.name,
            admin=who.admin,
            roles={row.name: who.roles[row.id] for row in projects},
            user=user.name if user else None,
            expires_at=ends.expires_at if ends else None,
        )


@router.post("/projects", status_code=201, dependencies=[asks(Action.PROJECT_WRITE)])
def create_project(service: TheService, who: Who, body: wire.ProjectCreate) -> wire.Project:
    """Make a project."""
    authorize(who, Action.PROJECT_WRITE, None, thing="the system")
    with service.parts.db.write() as session:
        return _project(access.create_project(session, body.name))


@router.get("/projects", dependencies=[asks(Action.PROJECT_READ)])
def list_projects(service: TheService, who: Who, paging: Pages) -> Page[wire.Project]:
    """List the projects that the caller belongs to; an admin sees all."""
    with service.parts.db.read() as session:
        query = select(Project)
        if not who.admin:
            query = query.where(Project.id.in_(who.roles))
        rows, following = page(session, query, Project, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[_project(row) for row in rows], next=following)


@router.get("/projects/{project}", dependencies=[asks(Action.PROJECT_READ)])
def show_project(service: TheService, who: Who, project: str) -> wire.Project:
    """Show a project."""
    with service.parts.db.read() as session:
        return _with_use(session, access.owner(session, who, Action.PROJECT_READ, project))


@router.patch("/projects/{project}/quota", dependencies=[asks(Action.PROJECT_WRITE)])
def change_quota(service: TheService, who: Who, project: str, body: wire.QuotaChange) -> wire.Project:
    """Say how much a project may own; what it owns already stays, also where that is more."""
    with service.parts.db.write() as session:
        row = access.owner(session, who, Action.PROJECT_WRITE, project)
        for name, limit in body.model_dump(exclude_unset=True).items():
            setattr(row, f"max_{name}", limit)
        session.flush()
        return _with_use(session, row)


@router.delete("/projects/{project}", status_code=204, dependencies=[asks(Action.PROJECT_WRITE)])
def delete_project(service: TheService, who: Who, project: str) -> None:
    """Remove a project that owns nothing."""
    with service.parts.db.write() as session:
        access.delete_project(session, access.owner(session, who, Action.PROJECT_WRITE, project))


@router.post(
    "/tokens", status_code=201, dependencies=[asks(Action.TOKEN_WRITE, sometimes=(Action.PROJECT_WRITE,))]
)
def create_token(service: TheService, who: Who, body: wire.TokenCreate) -> wire.TokenSecret:
    """Make a token; its secret is in this answer only."""
    with service.parts.db.write() as session:
        row, secret = users.create_token(session, who, body)
        return wire.TokenSecret(**_token(row).model_dump(), secret=secret)


@router.get("/tokens", dependencies=[asks(Action.TOKEN_READ)])
def list_tokens(service: TheService, who: Who, paging: Pages) -> Page[wire.Token]:
    """List tokens, without their secrets: those of projects that the caller manages, and his own."""
    if who.session is None:
        authorize_somewhere(who, Action.TOKEN_READ, thing="tokens")
    with service.parts.db.read() as session:
        query = select(Token)
        if not who.admin:
            own = [Token.user_id == who.user] if who.session else []
            query = query.where(or_(Token.project_id.in_(who.projects(Action.TOKEN_READ)), *own))
        rows, following = page(session, query, Token, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[_token(row) for row in rows], next=following)


@router.delete("/tokens/{token}", status_code=204, dependencies=[asks(Action.TOKEN_WRITE)])
def delete_token(service: TheService, who: Who, token: str) -> None:
    """Revoke a token; it stops working at once."""
    with service.parts.db.write() as session:
        users.delete_token(session, who, token)


def _project(row: Project) -> wire.Project:
    quota = wire.Quota(
        nodes=row.max_nodes,
        images=row.max_images,
        image_bytes=row.max_image_bytes,
        disks=row.max_disks,
        disk_bytes=row.max_disk_bytes,
    )
    return wire.Project(id=row.id, name=row.name, created_at=row.created_at, quota=quota)


def _with_use(session: Session, row: Project) -> wire.Project:
    use = wire.ProjectUse(**asdict(use_of(session, row.id)))
    return _project(row).model_copy(update={"use": use})


def _token(row: Token) -> wire.Token:
    return wire.Token(
        id=row.id,
        name=row.name,
        role=row.role,
        project=row.project.name if row.project else None,
        user=row.user.name if row.user else None,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )
