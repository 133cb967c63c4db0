"""Who may do what: the one table of rules and the one function that every route goes through."""

import logging
from collections.abc import Set as AbstractSet
from contextvars import ContextVar
from dataclasses import dataclass
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
    TOKEN_READ = "token.read"  # noqa: S105
    TOKEN_WRITE = "token.write"  # noqa: S105
    NODE_READ = "node.read"
    NODE_USE = "node.use"
    NODE_WRITE = "node.write"
    NETWORK_READ = "network.read"
    NETWORK_WRITE = "network.write"
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
    Action.TOKEN_READ: Role.MANAGER,
    Action.TOKEN_WRITE: Role.MANAGER,
    Action.NODE_READ: Role.VIEWER,
    Action.NODE_USE: Role.MEMBER,
    Action.NODE_WRITE: Role.ADMIN,
    Action.NETWORK_READ: Role.VIEWER,
    Action.NETWORK_WRITE: Role.MANAGER,
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

_RANK = {role: rank for rank, role in enumerate((Role.VIEWER, Role.MEMBER, Role.MANAGER, Role.ADMIN))}

READABLE_BY_ALL = {Action.IMAGE_READ, Action.IMAGE_EXPORT, Action.NODE_READ}
"""What everybody may read where it belongs to no project: golden images of the site, free nodes."""

USABLE_BY_ALL = {Action.NODE_USE}
"""What everybody with the role may take where it belongs to no project: free nodes."""

OFFERED = {Action.IMAGE_READ}
"""What a project may do with what another one offers to it. Who may read an image may also clone it."""


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

    token: str
    role: Role
    project: UUID | None
    """The project that the token is good for; None for an admin's."""

    @property
    def admin(self) -> bool:
        """Whether the caller may do everything everywhere."""
        return self.role is Role.ADMIN


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
    free = project is None and action in READABLE_BY_ALL | USABLE_BY_ALL
    free = free or (offered and action in OFFERED)
    least = LEAST_ROLE[action]
    # That there is a system which admins look after is no secret; what it has is.
    free = free or (project is None and least is Role.ADMIN)
    if not free and project != caller.project:
        raise unknown(thing)
    if _RANK[caller.role] < _RANK[least]:
        raise NotAllowed(
            f"{action} on {thing} needs the role {least}, token {caller.token} has {caller.role}",
            next_step=f"ask for a token with the role {least}",
        )


def unknown(thing: str) -> NotFound:
    """Return the error for a thing that does not exist, or not for this caller."""
    return NotFound(f"there is no {thing}", next_step="check the name, and the project it belongs to")
