"""GRUB for a disk that boots on BIOS and on UEFI, made without a device to install it on.

`grub-install` and `grub-bios-setup` want a block device; an image is a file. So the loader is made with
`grub-mkimage`, and the two addresses that `grub-bios-setup` would patch are patched here.
"""

import struct
from pathlib import Path

from bmi.run import run

SECTOR = 512

_MODULES = Path("/usr/lib/grub")

# Everything that grub.cfg needs is in the loader itself: each module read from the disk would be one more
# round trip through the firmware.
_COMMON = ("part_gpt", "ext2", "normal", "linux", "test", "echo", "serial", "terminal", "minicmd")
_BIOS = (*_COMMON, "biosdisk")
_UEFI = (*_COMMON, "efi_gop")

# Offsets in boot.img (GRUB 2, include/grub/i386/pc/boot.h).
_BOOT_CODE_END = 440  # what follows belongs to the partition table
_KERNEL_SECTOR = 0x5C  # 8 bytes: first sector of core.img
_DRIVE_CHECK = 0x66  # 2 bytes: a jump that doubts the drive number which the BIOS passes
_NOP_NOP = b"\x90\x90"
# core.img begins with diskboot.img, whose last 12 bytes list where the rest is: start, sectors, segment.
_BLOCK_LIST = SECTOR - 12


def bios_core(work: Path, *, partition: int) -> bytes:
    """Return core.img: the part of GRUB that finds and reads `partition` of the disk it was started from.

    Raises:
        CommandFailed: `grub-mkimage` or its i386-pc modules are not installed.
    """
    return _mkimage(work / "core.img", "i386-pc", _BIOS, partition)


def uefi_loader(work: Path, *, partition: int) -> bytes:
    """Return BOOTX64.EFI: GRUB as one EFI program.

    Raises:
        CommandFailed: `grub-mkimage` or its x86_64-efi modules are not installed.
    """
    return _mkimage(work / "BOOTX64.EFI", "x86_64-efi", _UEFI, partition)


def boot_code(core_sector: int) -> bytes:
    """Return the code for the disk's first sector, which starts the core.img at `core_sector`."""
    code = bytearray((_MODULES / "i386-pc" / "boot.img").read_bytes())
    struct.pack_into("<Q", code, _KERNEL_SECTOR, core_sector)
    code[_DRIVE_CHECK : _DRIVE_CHECK + 2] = _NOP_NOP
    return bytes(code[:_BOOT_CODE_END])


def placed(core: bytes, core_sector: int) -> bytes:
    """Return a core.img that knows that it lies at `core_sector`, in one piece."""
    image = bytearray(core)
    struct.pack_into("<Q", image, _BLOCK_LIST, core_sector + 1)
    return bytes(image)


def _mkimage(output: Path, platform: str, modules: tuple[str, ...], partition: int) -> bytes:
    # A prefix without a disk means the disk that the loader came from: a server's own disks may carry the
    # same label, and never get a say.
    prefix = f"(,gpt{partition})/boot/grub"
    run(["grub-mkimage", "-O", platform, "-d", _MODULES / platform, "-p", prefix, "-o", output, *modules])
    return output.read_bytes()
