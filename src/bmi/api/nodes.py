"""Nodes on the wire."""

from datetime import datetime
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BeforeValidator, Field, SecretStr, StringConstraints

from bmi.api.common import Name, Request, Response
from bmi.api.hardware import Hardware


def _lower(value: object) -> object:
    # A pattern is matched before `to_lower` of the same constraint.
    return value.lower() if isinstance(value, str) else value


def _written_out(value: object) -> object:
    # Python's own type would take true, or a number, for an address.
    if value is not None and not isinstance(value, str | IPv4Address):
        raise ValueError("write it as 10.64.1.5")
    return value


Mac = Annotated[str, BeforeValidator(_lower), StringConstraints(pattern=r"^([0-9a-f]{2}:){5}[0-9a-f]{2}$")]


class NodeState(StrEnum):
    """Where a node is between two tenants."""

    AVAILABLE = "available"
    PROVISIONING = "provisioning"
    ACTIVE = "active"
    DEPROVISIONING = "deprovisioning"
    CLEANING = "cleaning"
    FAILED = "failed"
    MAINTENANCE = "maintenance"


class Milestone(StrEnum):
    """How far a provision follows the node, in the order in which a boot reaches them."""

    POWER = "power"
    """The BMC confirmed that the node is on."""
    DHCP = "dhcp"
    """The node got its address."""
    SCRIPT = "script"
    """The node fetched its boot script."""
    LOGIN = "login"
    """The node logged in to its disk."""
    UP = "up"
    """The operating system reported that it is up."""


class Nic(Request):
    """A network card and where its cable ends."""

    mac: Mac
    switch: str
    port: str


class NodeNic(Response):
    """A network card, where its cable ends, and where it is."""

    mac: str
    switch: str
    port: str
    network: str | None = None
    address: IPv4Address | None = None


class BmcCreate(Request):
    """How to reach a node's management controller."""

    driver: str = "redfish"
    address: str
    username: str = ""
    password: SecretStr = SecretStr("")
    options: dict[str, str] = {}


class Bmc(Response):
    """How BMI reaches a node's management controller; the password is never shown."""

    driver: str
    address: str
    username: str
    options: dict[str, str] = {}


class NodeCreate(Request):
    """A node to register."""

    name: Name
    bmc: BmcCreate
    nics: list[Nic] = Field(min_length=1, max_length=16)
    """The first one is the one it boots from."""


class Node(Response):
    """A physical server."""

    id: UUID
    name: str
    state: NodeState
    project: str | None
    bmc: Bmc | None
    """Shown to admins only."""
    nics: list[NodeNic]
    disk: str | None
    image: str | None
    network: str | None
    address: IPv4Address | None
    portal: str | None = None
    """Where its disk is served to it: ADDRESS:PORT on its network."""
    gateway: str | None = None
    """The gateway whose export that is."""
    ssh_host_keys: list[str]
    """Public host keys that the operating system reported when it came up."""
    operation: UUID | None
    """The operation that runs on it now."""
    problem: str | None
    """Why it is `failed`, and what to do."""
    hardware: Hardware | None = None
    """What it consists of, if it ever told."""
    created_at: datetime


class Provision(Request):
    """What a node is to boot, and how."""

    image: str | None = None
    """Name or id; a new disk is cloned from it. Either this or `disk`."""
    disk: str | None = None
    """Name or id of a disk that exists."""
    network: str
    project: str | None = None
    address: Annotated[IPv4Address | None, BeforeValidator(_written_out)] = None
    """The node's address on the network; a free one if absent. Needed where another server gives addresses."""
    hostname: Name | None = None
    """The node's name if absent."""
    ssh_keys: list[str] = Field([], max_length=64)
    user_data: str | None = Field(None, max_length=32 * 1024)
    until: Milestone = Milestone.UP
    """How far to follow the boot before the operation succeeds."""
    deadline: float = Field(1800, gt=0, le=86400, description="Seconds the boot may take until then")


class Deprovision(Request):
    """How to give a node back."""

    keep_disk: bool = False


class Reset(Request):
    """How to make a node available, whatever its record says."""

    remove_disk: bool = False
    """Its disk is kept, unless it is only half made."""
    assume_off: bool = False
    """Do not ask its management controller: somebody has made sure that the node is off. Admins only."""
    assume_clean: bool = False
    """Do not have its local disks wiped: somebody has looked after them. Admins only."""


class PowerRequest(Request):
    """What to do with a node's power."""

    action: Literal["on", "off", "cycle"]


class Power(Response):
    """Whether a node has power."""

    state: Literal["on", "off"]
