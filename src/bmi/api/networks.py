"""Networks on the wire."""

from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Literal
from uuid import UUID

from pydantic import Field, field_validator

from bmi.api.common import Name, Request, Response
from bmi.api.images import Visibility


class NetworkCreate(Request):
    """A network to make."""

    name: Name
    project: str | None = None
    vlan: int | None = Field(None, ge=1, le=4094, description="Only admins choose; else one of the pool")
    subnet: IPv4Network | None = Field(None, description="One of the pool if absent")

    @field_validator("subnet", mode="before")
    @classmethod
    def _written_out(cls, subnet: object) -> object:
        """Take a subnet as people write it: Python's own type would take true, or a number, for an address."""
        if subnet is not None and not isinstance(subnet, str | IPv4Network):
            raise ValueError("write it as 10.64.1.0/24")
        return subnet


class Network(Response):
    """An L2 segment (VLAN) with a boot service on it."""

    id: UUID
    name: str
    project: str
    state: Literal["creating", "ready", "removing"]
    vlan: int
    subnet: IPv4Network
    gateway: IPv4Address
    visibility: Visibility = "private"
    """Whose nodes may be attached to it beside those of its own project."""
    created_at: datetime


class NetworkShare(Response):
    """A project that a network is shared with."""

    project: str
    project_id: UUID
    created_at: datetime
