"""The network on which machines are discovered."""

from ipaddress import IPv4Address
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.models import Project
from bmi.networks.models import Network
from bmi.settings import Settings


def network_of(session: Session, settings: Settings) -> UUID | None:
    """Return the network on which machines are discovered; None if there is none, or discovery is off."""
    if not settings.discovery.enabled:
        return None
    return session.scalar(
        select(Network.id)
        .join(Project, Project.id == Network.project_id)
        .where(Network.name == settings.discovery.network, Project.name == settings.discovery.project)
    )


def script_url(settings: Settings, gateway: IPv4Address) -> str:
    """Return where a machine that is no node asks a gateway what to boot."""
    return f"http://{gateway}:{settings.boot.http_port}/discovery/script.ipxe"
