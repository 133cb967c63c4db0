"""What a machine consists of, on the wire: as the inspection system found it."""

from typing import Literal
from uuid import UUID

from pydantic import Field

from bmi.api.common import Response


class Neighbour(Response):
    """A switch port as it names itself by LLDP (IEEE 802.1AB)."""

    switch: str
    """System name; empty if the switch tells none."""
    chassis: str
    """Chassis id: a MAC address, or what else the switch is known by."""
    port: str
    """Port id."""
    description: str
    """Port description; empty if there is none."""


class Card(Response):
    """A network card."""

    name: str
    """As the inspection system's kernel calls it."""
    mac: str
    driver: str
    link: bool | None
    """Whether it has a carrier; None if it does not tell."""
    speed: int | None
    """Mbit/s; None without a link."""
    neighbours: list[Neighbour] = []
    """Who was heard at the other end of the cable."""


class LocalDisk(Response):
    """A disk of the machine's own."""

    name: str
    size: int
    """Bytes."""
    kind: Literal["nvme", "ssd", "hdd", "unknown"]
    model: str
    serial: str


class Hardware(Response):
    """What a machine consists of. Who controls the machine can say anything here."""

    firmware: Literal["bios", "uefi", "unknown"]
    vendor: str
    product: str
    serial: str
    uuid: UUID | None
    """System UUID as the firmware tells it (SMBIOS)."""
    cpu: str
    """Model of the first processor."""
    cpus: int
    """Threads of all processors together."""
    memory: int
    """Bytes that the operating system has."""
    disks: list[LocalDisk]
    cards: list[Card]
    bmc_address: str | None = Field(None, description="Address of its management controller, if it told one")
