"""Calls about users, and what they may do in projects."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.access import Member, MemberSet, PasswordSet, User, UserChange, UserCreate
from bmi.client.transport import Transport


class Users:
    """People who log in."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: UserCreate) -> User:
        """Make a user with a password."""
        return self._transport.call("POST", ["users"], User, body=request)

    def list(self, *, limit: int | None = None) -> Iterator[User]:
        """Go through the users."""
        return self._transport.items(["users"], User, limit=limit)

    def get(self, user: str | UUID) -> User:
        """Return a user by name or id."""
        return self._transport.call("GET", ["users", user], User)

    def change(self, user: str | UUID, request: UserChange) -> User:
        """Make a user an admin or not, or disable him."""
        return self._transport.call("PATCH", ["users", user], User, body=request)

    def set_password(self, user: str | UUID, request: PasswordSet) -> None:
        """Give a user a new password; his sessions end."""
        self._transport.done("PUT", ["users", user, "password"], body=request)

    def delete(self, user: str | UUID) -> None:
        """Remove a user, with sessions, memberships and tokens."""
        self._transport.done("DELETE", ["users", user])

    def members(self, project: str | UUID, *, limit: int | None = None) -> Iterator[Member]:
        """Go through the users of a project."""
        return self._transport.items(["projects", project, "members"], Member, limit=limit)

    def grant(self, project: str | UUID, user: str | UUID, request: MemberSet) -> Member:
        """Say what a user may do in a project from now on."""
        return self._transport.call("PUT", ["projects", project, "members", user], Member, body=request)

    def revoke(self, project: str | UUID, user: str | UUID) -> None:
        """Take away what a user may do in a project."""
        self._transport.done("DELETE", ["projects", project, "members", user])
