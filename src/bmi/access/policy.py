"""Who may do what: the one table of rules and the one function that every route goes through."""

import logging
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from uuid import UUID

from bmi.api.access import Role
from bmi.audit import trail
from bmi.errors import NotAllowed, NotFound, UndeclaredAction

log = logging.getLogger(__name__)


class Action(StrEnum):
    """Everything that can be asked for."""

    PROJECT_READ = "project.read"
    PROJECT_WRITE = "project.write"
    MEMBERSHIP_READ = "membership.read"
    MEMBERSHIP_WRITE = "membership.write"
    USER_READ = "user.read"
    USER_WRITE = "user.write"
    TOKEN_READ = "token.read"  # noqa: S105
    TOKEN_WRITE = "token.write"  # noqa: S105
    NODE_READ = "node.read"
    NODE_USE = "node.use"
    NODE_WRITE = "node.write"
    CONSOLE_READ = "console.read"
    CONSOLE_WRITE = "console.write"
    NETWORK_READ = "network.read"
    NETWORK_WRITE = "network.write"
    NETWORK_SHARES = "network.shares"
    NETWORK_PUBLISH = "network.publish"
    IMAGE_READ = "image.read"
    IMAGE_WRITE = "image.write"
    IMAGE_BUILD = "image.build"
    IMAGE_PUBLISH = "image.publish"
    IMAGE_SHARES = "image.shares"
    IMAGE_EXPORT = "image.export"
    DISK_READ = "disk.read"
    DISK_WRITE = "disk.write"
    OPERATION_READ = "operation.read"
    OPERATION_CANCEL = "operation.cancel"
    OPERATION_RETRY = "operation.retry"
    DOCTOR = "doctor"
    DOCTOR_REPAIR = "doctor.repair"
    MEMBERS = "members"
    AUDIT_READ = "audit.read"


LEAST_ROLE: dict[Action, Role] = {
    Action.PROJECT_READ: Role.VIEWER,
    Action.PROJECT_WRITE: Role.ADMIN,
    Action.MEMBERSHIP_READ: Role.VIEWER,
    Action.MEMBERSHIP_WRITE: Role.MANAGER,
    Action.USER_READ: Role.ADMIN,
    Action.USER_WRITE: Role.ADMIN,
    Action.TOKEN_READ: Role.MANAGER,
    Action.TOKEN_WRITE: Role.MANAGER,
    Action.NODE_READ: Role.VIEWER,
    Action.NODE_USE: Role.MEMBER,
    Action.NODE_WRITE: Role.ADMIN,
    Action.CONSOLE_READ: Role.VIEWER,
    Action.CONSOLE_WRITE: Role.MEMBER,
    Action.NETWORK_READ: Role.VIEWER,
    Action.NETWORK_WRITE: Role.MANAGER,
    Action.NETWORK_SHARES: Role.VIEWER,
    # Every tenant's nodes meet there.
    Action.NETWORK_PUBLISH: Role.ADMIN,
    Action.IMAGE_READ: Role.VIEWER,
    Action.IMAGE_WRITE: Role.MEMBER,
    Action.IMAGE_BUILD: Role.ADMIN,
    # All tenants boot what is public: who may publish could put a back door into everybody's servers.
    Action.IMAGE_PUBLISH: Role.ADMIN,
    Action.IMAGE_SHARES: Role.VIEWER,
    Action.IMAGE_EXPORT: Role.MEMBER,
    Action.DISK_READ: Role.VIEWER,
    Action.DISK_WRITE: Role.MEMBER,
    Action.OPERATION_READ: Role.VIEWER,
    Action.OPERATION_CANCEL: Role.MEMBER,
    Action.OPERATION_RETRY: Role.MEMBER,
    Action.DOCTOR: Role.ADMIN,
    Action.DOCTOR_REPAIR: Role.ADMIN,
    Action.MEMBERS: Role.ADMIN,
    Action.AUDIT_READ: Role.MANAGER,
}

RANK = {role: rank for rank, role in enumerate((Role.VIEWER, Role.MEMBER, Role.MANAGER, Role.ADMIN))}
"""How much each role may: what a higher one may includes what a lower one may."""

READABLE_BY_ALL = {Action.IMAGE_READ, Action.IMAGE_EXPORT, Action.NODE_READ}
"""What everybody may read where it belongs to no project: golden images of the site, free nodes."""

USABLE_BY_ALL = {Action.NODE_USE}
"""What everybody with the role may take where it belongs to no project: free nodes."""

OFFERED = {Action.IMAGE_READ, Action.NETWORK_READ}
"""What a project may do with what another one offers to it. Who may read an image may also clone it; who may read a
network may also attach his nodes to it."""


_declared: ContextVar[AbstractSet[Action] | None] = ContextVar("declared", default=None)


def declare(actions: AbstractSet[Action]) -> None:
    """Hold what is asked for from here on to what a route has declared; each request has a context of its own."""
    _declared.set(actions)


def require_declared(action: Action) -> None:
    """Refuse an action that the route in hand has not declared; outside of requests everything may be asked.

    To look for a thing in a project that the caller names is part of every route: see `InProject`.

    Raises:
        UndeclaredAction: It has not: the route, or what it calls, has a defect.
    """
    declared = _declared.get()
    if declared is not None and action not in declared and action is not Action.PROJECT_READ:
        log.error("a route asks for %s and has not declared it", action)
        raise UndeclaredAction(
            f"this route has no rule for {action}", next_step="report it: BMI has a defect"
        )


@dataclass(frozen=True)
class Caller:
    """Who asks."""

    name: str
    """What the history calls him: a user, USER/TOKEN, or a service's token."""
    admin: bool = False
    """Whether he may do everything everywhere."""
    roles: Mapping[UUID, Role] = field(default_factory=dict)
    """What he may do in which project; a token of a user is good for one of his."""
    user: UUID | None = None
    """The user behind; None for a service's token."""
    token: UUID | None = None
    """The token that the request carries; None in a session."""
    session: UUID | None = None
    """The session that the request is part of."""

    @property
    def project(self) -> UUID | None:
        """The only project that he belongs to; None if there are several, or none."""
        return next(iter(self.roles)) if len(self.roles) == 1 else None

    def projects(self, action: Action) -> list[UUID]:
        """Return the projects in which he may do something; an admin may everywhere."""
        return [project for project, role in self.roles.items() if RANK[role] >= RANK[LEAST_ROLE[action]]]

    @property
    def highest(self) -> Role | None:
        """The highest of his roles, which counts for what belongs to no project; None if he has none."""
        return max(self.roles.values(), key=RANK.__getitem__, default=None)


def least_of(role: Role, other: Role) -> Role:
    """Return the lower one of two roles."""
    return min(role, other, key=RANK.__getitem__)


def authorize(
    caller: Caller, action: Action, project: UUID | None, *, thing: str, offered: bool = False
) -> None:
    """Let a caller do something to a thing of a project, or refuse.

    Args:
        caller: Who asks.
        action: What for.
        project: The project that the thing belongs to; None if it belongs to none.
        thing: The thing in words, such as `disk web-1`.
        offered: Whether the project offers it to the caller's.

    Raises:
        NotFound: The caller may not know that the thing exists.
        NotAllowed: The caller may see the thing, but not do this.
        UndeclaredAction: The route has not declared that it asks for this.
    """
    trail.asked(action, thing, project)
    require_declared(action)
    if caller.admin:
        return
    least = LEAST_ROLE[action]
    role = caller.roles.get(project) if project else None
    free = project is None and action in READABLE_BY_ALL | USABLE_BY_ALL
    if role is None and (free or (offered and action in OFFERED)):
        role = caller.highest
    # That there is a system, which has admins, is no secret.
    if role is None and not (project is None and least is Role.ADMIN):
        raise unknown(thing)
    if role is None or RANK[role] < RANK[least]:
        raise _not_allowed(caller, action, thing, role or caller.highest)


def authorize_somewhere(caller: Caller, action: Action, *, thing: str) -> None:
    """Let a caller ask for a list of what he may do something to in one project at least, or refuse.

    Args:
        caller: Who asks.
        action: What for.
        thing: What is listed, in words, such as `uploads`.

    Raises:
        NotAllowed: He may not do that in any project.
        UndeclaredAction: The route has not declared that it asks for this.
    """
    trail.asked(action, thing, caller.project)
    require_declared(action)
    if not caller.admin and not caller.projects(action):
        raise _not_allowed(caller, action, thing, caller.highest)


def unknown(thing: str) -> NotFound:
    """Return the error for a thing that does not exist, or not for this caller."""
    return NotFound(f"there is no {thing}", next_step="check the name, and the project it belongs to")


def _not_allowed(caller: Caller, action: Action, thing: str, role: Role | None) -> NotAllowed:
    least = LEAST_ROLE[action]
    return NotAllowed(
        f"{action} on {thing} needs the role {least}, {caller.name} has {role or 'none'}",
        next_step="ask an admin"
        if least is Role.ADMIN
        else f"ask a manager of the project for the role {least}",
    )
