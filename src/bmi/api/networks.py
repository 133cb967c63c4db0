"""Networks on the wire."""

from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Literal
from uuid import UUID

from pydantic import Field

from bmi.api.common import Name, Request, Response


class NetworkCreate(Request):
    """A network to make."""

    name: Name
    project: str | None = None
    vlan: int | None = Field(None, ge=1, le=4094, description="Only admins choose; else one of the pool")
    subnet: IPv4Network | None = Field(None, description="One of the pool if absent")


class Network(Response):
    """An L2 segment (VLAN) with a boot service on it."""

    id: UUID
    name: str
    project: str
    state: Literal["creating", "ready", "removing"]
    vlan: int
    subnet: IPv4Network
    gateway: IPv4Address
    created_at: datetime
