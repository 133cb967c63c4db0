"""Calls about projects."""

from collections.abc import Iterator
from uuid import UUID

from bmi.api.access import Project, ProjectCreate, QuotaChange
from bmi.client.transport import Transport


class Projects:
    """Tenants."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport

    def create(self, request: ProjectCreate) -> Project:
        """Make a project."""
        return self._transport.call("POST", ["projects"], Project, body=request)

    def list(self, *, limit: int | None = None) -> Iterator[Project]:
        """Go through the projects that the token may see."""
        return self._transport.items(["projects"], Project, limit=limit)

    def get(self, project: str | UUID) -> Project:
        """Return a project by name or id."""
        return self._transport.call("GET", ["projects", project], Project)

    def change_quota(self, project: str | UUID, request: QuotaChange) -> Project:
        """Say how much a project may own."""
        return self._transport.call("PATCH", ["projects", project, "quota"], Project, body=request)

    def delete(self, project: str | UUID) -> None:
        """Remove a project; refused while it owns things."""
        self._transport.done("DELETE", ["projects", project])
