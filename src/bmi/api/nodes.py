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


NicRef = Annotated[
    str,
    BeforeValidator(_lower),
    StringConstraints(pattern=r"^([1-9][0-9]?|([0-9a-f]{2}:){5}[0-9a-f]{2})$", max_length=17),
]
"""A card of a node: its number in the order in which they were registered, from 1, or its MAC."""

ATTACHMENTS = 64
"""How many networks beside the one that it boots on a node can have at the most."""


class NodeState(StrEnum):
    """Where a node is between two tenants."""

    AVAILABLE = "available"
    ALLOCATED = "allocated"
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


class Lease(StrEnum):
    """Whether the site's inventory, from which a node was imported, still gives it to the project that uses it."""

    HELD = "held"
    ENDED = "ended"
    """It belongs to somebody else there, or to nobody; BMI leaves its power and its ports alone."""
    UNKNOWN = "unknown"
    """The inventory does not answer."""


class Nic(Request):
    """A network card and where its cable ends."""

    mac: Mac
    switch: str
    port: str


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
    """The first one is the one it boots over, unless a provision names another one."""


class Attachment(Response):
    """A card of a node on a network."""

    network: str
    network_project: str
    """Whose network it is."""
    nic: int
    """Number of the card, from 1."""
    mac: str
    tagged: bool
    """Whether the network comes in frames with a VLAN tag; else it is what the card gets without one."""
    vlan: int
    address: IPv4Address
    boot: bool
    """Whether the node boots over it."""
    ready: bool
    """Whether the switch port should carry it now; else that is about to begin or to end."""


class Node(Response):
    """A physical server."""

    id: UUID
    name: str
    state: NodeState
    project: str | None
    allocated: bool = False
    """Whether it stays its project's when it boots nothing."""
    bmc: Bmc | None
    """Shown to admins only."""
    nics: list[Nic]
    disk: str | None
    image: str | None
    network: str | None
    address: IPv4Address | None
    attachments: list[Attachment] = []
    portal: str | None = None
    """Where its disk is served to it: ADDRESS:PORT on its network."""
    gateway: str | None = None
    """The gateway whose export that is."""
    ssh_host_keys: list[str]
    """Public host keys that the operating system reported when it came up."""
    operation: UUID | None
    """The operation that runs on it now."""
    problem: str | None
    """Why it is `failed`, or lost to its project, and what to do."""
    lease: Lease | None = None
    """None if it was not imported from an inventory. In a list it is what was last found, or None."""
    console: bool = False
    """Whether there is something to read of what it said on its console since it was last started."""
    hardware: Hardware | None = None
    """What it consists of, if it ever told."""
    created_at: datetime


class NodeImport(Request):
    """Which nodes of the site's inventory to take over, a page at a time."""

    project: str
    """Name or id of BMI's project whose nodes are looked at."""
    dry_run: bool = False
    """Only say what would change."""
    limit: int = Field(20, ge=1, le=100)
    cursor: str | None = Field(None, max_length=255)
    """Where to go on: `next` of the page before."""


class Difference(StrEnum):
    """How a node of the site's inventory compares with BMI's."""

    NEW = "new"
    CHANGED = "changed"
    UNCHANGED = "unchanged"
    GONE = "gone"
    """BMI has it, and the inventory does not give it to this project any more."""
    REFUSED = "refused"
    """It cannot be taken over; the detail says why."""


class ImportedNode(Response):
    """A node of the site's inventory, and what was done about it."""

    node: str
    """What the inventory calls it."""
    project: str
    difference: Difference
    detail: str


class Attach(Request):
    """A network that a node is to be on, beside the one that it boots on."""

    network: str
    """Of the node's own project, shared with it, or public."""
    nic: NicRef | None = None
    """The card that it boots over if absent."""
    tagged: bool = False
    """Whether it comes in frames with a VLAN tag: a card has one network without, and any number with."""
    address: Annotated[IPv4Address | None, BeforeValidator(_written_out)] = None
    """The node's address there; a free one if absent. Needed where another server gives addresses."""


class Detach(Request):
    """A network that a node is to leave."""

    network: str


class Allocate(Request):
    """Whose a free node is to be."""

    project: str | None = None


class Provision(Request):
    """What a node is to boot, and how."""

    image: str | None = None
    """Name or id; a new disk is cloned from it. Either this or `disk`."""
    disk: str | None = None
    """Name or id of a disk that exists."""
    network: str
    """The one to boot on, of the project's own."""
    nic: NicRef | None = None
    """The card to boot over; the first one if absent."""
    attachments: list[Attach] = Field([], max_length=ATTACHMENTS)
    """Networks beside the one that it boots on."""
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
    release: bool = False
    """Let it belong to nobody afterwards, also if it is allocated to a project."""
    assume_clean: bool = False
    """Do not have its local disks wiped: somebody has looked after them. Admins only."""


class PowerRequest(Request):
    """What to do with a node's power."""

    action: Literal["on", "off", "cycle"]


class PowerSaid(Request):
    """What somebody did to a node's power by hand."""

    state: Literal["on", "off"]


class Power(Response):
    """Whether a node has power."""

    state: Literal["on", "off"]
