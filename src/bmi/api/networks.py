"""Networks on the wire."""

from datetime import datetime
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, field_validator

from bmi.api.common import DOMAIN, DOMAIN_LENGTH, Change, Name, Request, Response


def _written_out(value: object) -> object:
    """Take an address as people write it: Python's own type would take true, or a number, for one."""
    if value is not None and not isinstance(value, str | IPv4Address | IPv4Network):
        raise ValueError("write it as 10.64.1.1")
    return value


Address = Annotated[IPv4Address, BeforeValidator(_written_out)]

Dhcp = Literal["full", "reservations", "proxy", "off"]
"""Who gives addresses: BMI, to nodes and others; BMI, to nodes; another server beside BMI; BMI is silent."""


class AddressRange(Request):
    """Addresses from one to another, both included."""

    first: Address
    last: Address


class NetworkSettings(Request):
    """Who gives addresses on a network, and what its nodes are told about it."""

    dhcp: Dhcp = "reservations"
    dhcp_range: AddressRange | None = None
    """Addresses for cards that are no node's; with `full` only."""
    router: Address | None = None
    """The default route that nodes are given; none if absent."""
    dns: bool = True
    """Whether the gateway answers for NODE.PROJECT.DOMAIN, and asks `dns_servers` for other names."""
    dns_servers: list[Address] = Field([], max_length=3)
    """Without `dns` nodes ask them themselves."""
    domain: str | None = Field(None, pattern=rf"^{DOMAIN}$", max_length=DOMAIN_LENGTH)
    """As the service's settings say if absent."""
    mtu: int | None = Field(None, ge=576, le=9216)
    """Bytes of a packet; as nodes have it of themselves if absent."""
    lease_seconds: int | None = Field(None, ge=120, le=31536000)
    """A day if absent."""


class NetworkUpdate(NetworkSettings, Change):
    """What is to be otherwise; what is not named stays."""


class NetworkCreate(NetworkSettings):
    """A network to make."""

    name: Name
    project: str | None = None
    vlan: int | None = Field(None, ge=1, le=4094, description="Only admins choose; else one of the pool")
    subnet: IPv4Network | None = Field(None, description="One of the pool if absent")

    @field_validator("subnet", mode="before")
    @classmethod
    def _written_out(cls, subnet: object) -> object:
        return _written_out(subnet)


class Network(Response):
    """An L2 segment (VLAN) with a boot service on it."""

    id: UUID
    name: str
    project: str
    state: Literal["creating", "ready", "removing"]
    vlan: int
    subnet: IPv4Network
    gateway: IPv4Address
    dhcp: Dhcp = "reservations"
    dhcp_range: AddressRange | None = None
    router: IPv4Address | None = None
    dns: bool = False
    dns_servers: list[IPv4Address] = []
    domain: str | None = None
    """The domain of its nodes: PROJECT.DOMAIN."""
    mtu: int | None = None
    lease_seconds: int | None = None
    boot_url: str | None = None
    """Where nodes ask what to boot, if another server gives addresses."""
    created_at: datetime
