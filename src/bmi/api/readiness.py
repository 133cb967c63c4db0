"""How ready an image is for network boot, on the wire."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field

from bmi.api.common import Name, Request, Response


class Severity(StrEnum):
    """How bad a finding is."""

    BLOCKS = "blocks"
    """The image does not boot, or cannot be used after it has."""
    WARNS = "warns"
    """It boots in some places only, or causes trouble later."""
    INFO = "info"
    """Worth knowing."""


class Finding(Response):
    """One thing that was found in an image."""

    code: str = Field(description="Never changes between releases")
    severity: Severity
    message: str
    next_step: str


class Report(Response):
    """How ready an image is for network boot."""

    system: str = Field("", description="What the operating system calls itself; empty if there is none")
    findings: list[Finding] = []
    cloud_init: bool = Field(False, description="It reads its seed with cloud-init")
    first_boot: bool = Field(False, description="It reads its seed with BMI's own first boot")
    checked_at: datetime | None = None

    @property
    def blocked(self) -> bool:
        """Whether something keeps the image from booting."""
        return any(finding.severity is Severity.BLOCKS for finding in self.findings)

    @property
    def needs_keys(self) -> bool:
        """Whether keys and a name have to be written into each clone: nothing in the image reads a seed."""
        return bool(self.system) and not self.cloud_init and not self.first_boot


class ImagePrepare(Request):
    """An image to be made ready for network boot, as a new one."""

    name: Name | None = Field(None, description="Of the new image; the old one's with `-prepared` if null")


class Readiness(Response):
    """What is known about an image and network boot."""

    image: str
    report: Report | None = Field(description="Of the last check; null if it was never checked")
    changes: list[str] | None = Field(description="What was changed to make it ready; null if nothing was")
