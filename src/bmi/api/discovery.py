"""Machines that nobody has registered yet, on the wire."""

from datetime import datetime
from ipaddress import IPv4Address
from uuid import UUID

from pydantic import Field, SecretStr

from bmi.api.common import Name, Request, Response
from bmi.api.hardware import Hardware
from bmi.api.nodes import Nic


class Discovered(Response):
    """A machine that booted on the discovery network, and what it told of itself."""

    id: UUID
    mac: str
    """The card that it booted from."""
    address: IPv4Address
    """Where its last report came from."""
    node: str | None
    """The node in the inventory that has one of its cards: then there is nothing to enrol."""
    hardware: Hardware
    reports: int
    """How often it reported."""
    seen_at: datetime
    """When it did so last."""
    created_at: datetime


class DiscoveredCabling(Discovered):
    """The same, and where its cables end."""

    places: list[Nic]
    """Of each card that heard a switch of the settings, the one that boots first."""


class EnrolBmc(Request):
    """How to reach the machine's management controller."""

    driver: str = "redfish"
    address: str | None = Field(None, min_length=1, description="What the machine told of it, if absent")
    username: str = ""
    password: SecretStr = SecretStr("")
    options: dict[str, str] = {}


class Enrol(Request):
    """How to make a machine a node."""

    name: Name
    bmc: EnrolBmc = EnrolBmc()
    nics: list[Nic] | None = Field(
        None,
        min_length=1,
        max_length=16,
        description="Its network cards and where they are plugged in; what they heard from switches, if absent",
    )
