"""What really exists, compared with what should, on the wire."""

from enum import StrEnum

from bmi.api.common import Request, Response


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Something is not as it should be, or nodes cannot use it."""
    WARNING = "warning"
    """Something will go wrong, or looks as if somebody had forgotten it."""


class Family(StrEnum):
    """What a finding is about."""

    STORAGE = "storage"
    TARGET = "target"
    BOOT = "boot"
    LEG = "leg"
    SWITCH = "switch"
    POWER = "power"
    INVENTORY = "inventory"
    GATEWAY = "gateway"
    OPERATION = "operation"
    ENVIRONMENT = "environment"


class Finding(Response):
    """One thing that differs from the database, or from what BMI can work with."""

    code: str
    """Stable; docs/doctor.md has the list."""
    severity: Severity
    family: Family
    thing: str
    message: str
    next_step: str
    repairable: bool
    """Whether the doctor's repair mends it by itself."""


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

    @property
    def errors(self) -> list[Finding]:
        """The findings that are more than a warning."""
        return [finding for finding in self.findings if finding.severity is Severity.ERROR]


class Repair(Request):
    """What is to be repaired besides everything that differs from the database."""

    remove_orphans: bool = False
    """Whether volumes that nothing refers to are removed, with what they hold."""


class Repaired(Report):
    """What `bmi doctor --repair` did, and what it saw after that."""

    mended: list[Finding]
    """What was found before and is not found any more; `findings` is what is left."""
    done: list[str]
    """What was done, and what failed, in words."""
