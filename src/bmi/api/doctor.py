"""What really exists, compared with what should, on the wire."""

from typing import Literal

from bmi.api.common import Response


class Finding(Response):
    """One thing that differs from the database."""

    kind: Literal["missing", "orphan", "differs"]
    family: Literal["storage", "target", "boot", "leg", "switch", "power"]
    thing: str
    message: str


class Inventory(Response):
    """How many things really exist, counted at the parts themselves."""

    images: int
    disks: int
    seeds: int
    exports: int
    sessions: int
    target_servers: int
    dhcp_servers: int
    leases: int
    legs: int
    ports_in_use: int


class Report(Response):
    """What `bmi doctor` saw."""

    findings: list[Finding]
    inventory: Inventory
