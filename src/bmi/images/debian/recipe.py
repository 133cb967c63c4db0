"""What a golden image is made of."""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

GIB = 1024**3

Package = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9+.-]+$", max_length=100)]
"""Name of a Debian package (Debian policy 5.6.1)."""
KernelArgument = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.,:=/+@-]+$", max_length=200)]


class Kernel(StrEnum):
    """Which Debian kernel the image carries."""

    CLOUD = "cloud"
    """`linux-image-cloud-amd64`: virtual machines only; it has no driver for a physical NIC."""
    GENERIC = "generic"
    """`linux-image-amd64`: every server; its initramfs carries all drivers and boots more slowly."""


class Recipe(BaseModel):
    """What goes into a golden image."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: Annotated[str, StringConstraints(pattern=r"^[a-z]+$")] = "bookworm"
    """Debian release, by its code name."""
    size: Annotated[int, Field(ge=GIB, multiple_of=1024**2)] = 2 * GIB
    """Bytes of the whole disk. The file is sparse, so unused room costs nothing."""
    label: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,16}$")] = "bmi-root"
    """Label of the root file system, by which the kernel finds it (at most 16 characters: ext4)."""
    kernel: Kernel = Kernel.CLOUD
    cloud_init: bool = False
    """Whether cloud-init sets the node up from its seed; else a small script does, in half the time."""
    cleaner: bool = False
    """Whether it wipes the local disks of the node that it boots, where the seed asks for that."""
    packages: tuple[Package, ...] = ()
    """More Debian packages."""
    kernel_arguments: tuple[KernelArgument, ...] = ()
    """Added to the kernel's command line, as in `mitigations=off`."""
    mirror: Annotated[str, StringConstraints(pattern=r"^https?://[^\s]+$")] | None = None
    """URL of a Debian mirror; None takes the host's own apt sources for the suite."""
    serial: str = ""
    """Any word; change it (to the date, say) to build afresh, with the packages of that day."""
