"""Golden images of Debian, built from packages: bootable over iSCSI on BIOS and UEFI."""

from bmi.images.debian.build import build, digest
from bmi.images.debian.recipe import Kernel, Recipe

__all__ = ["Kernel", "Recipe", "build", "digest"]
