"""From the firmware to the kernel: partition table, boot loaders, kernel, command line."""

import re
from collections.abc import Iterator

from bmi.api.readiness import Finding, Severity
from bmi.images.readiness.facts import DiskReport, System, options

FALLBACK = "/efi/boot/bootx64.efi"
"""The loader that UEFI firmware starts from a disk that it does not know (UEFI specification 3.5.1.1)."""

_PREPARE = "have it made ready: bmi image prepare"


def loaders(seen: DiskReport) -> Iterator[Finding]:
    """Look at what the firmware starts."""
    if seen.disk.table is None:
        yield Finding(
            code="no-partition-table",
            severity=Severity.WARNS,
            message="the disk has no partition table; UEFI firmware finds no loader on it",
            next_step="use an image with a GPT and an EFI system partition",
        )
    bios = seen.disk.boot_code and seen.disk.bios_core
    uefi = FALLBACK in (seen.loaders or ())
    if not bios and not seen.loaders:
        yield Finding(
            code="no-boot-loader",
            severity=Severity.BLOCKS,
            message="no boot loader is on the disk, neither for BIOS nor for UEFI",
            next_step="install one in the image, or use an image of a whole disk",
        )
        return
    if not bios:
        yield Finding(
            code="no-bios-loader",
            severity=Severity.WARNS,
            message="no boot loader for BIOS: " + _missing_for_bios(seen),
            next_step=f"boot it on UEFI nodes only, or {_PREPARE}",
        )
    if not uefi:
        yield _no_fallback(seen, bios=bios)


def _missing_for_bios(seen: DiskReport) -> str:
    if not seen.disk.boot_code:
        return "the first sector has no code"
    return "the code in the first sector has nothing to start"


def _no_fallback(seen: DiskReport, *, bios: bool) -> Finding:
    if seen.loaders is None:
        message, step = "no EFI system partition", "boot it on BIOS nodes only, or use an image that has one"
    else:
        message = "no loader at the place where UEFI firmware looks on a network disk, EFI/BOOT/BOOTX64.EFI"
        step = _PREPARE
    return Finding(
        code="no-efi-partition" if seen.loaders is None else "no-efi-fallback",
        severity=Severity.WARNS if bios else Severity.BLOCKS,
        message=message,
        next_step=step,
    )


def kernel(system: System) -> Iterator[Finding]:
    """Look at what the boot loader starts."""
    if not system.kernels:
        yield Finding(
            code="no-kernel",
            severity=Severity.BLOCKS,
            message="there is no kernel in /boot",
            next_step="install one in the image; images of containers have none",
        )
        return
    lines = system.command_lines()
    if not lines:
        yield Finding(
            code="no-boot-entry",
            severity=Severity.BLOCKS,
            message="the boot loader has no entry that starts Linux",
            next_step="make GRUB's configuration anew in the image: update-grub or grub2-mkconfig",
        )
        return
    yield from _root(system, lines[0])
    if not any("ttyS" in value for value in options(lines[0], "console")):
        yield Finding(
            code="no-serial-console",
            severity=Severity.INFO,
            message="the kernel does not write to a serial line, so a node's console shows nothing",
            next_step="add console=ttyS0,115200 to the kernel's command line",
        )


def _root(system: System, line: str) -> Iterator[Finding]:
    root = next(iter(options(line, "root")), "")
    kind, _, value = root.partition("=")
    known = {"LABEL": system.label, "UUID": system.uuid}
    if plain := re.fullmatch(r"/dev/(sd|vd|xvd|hd|nvme)\w+", root):
        sometimes = plain[1] == "sd"
        yield Finding(
            code="root-by-device",
            severity=Severity.WARNS if sometimes else Severity.BLOCKS,
            message=f"the kernel is told root={root}, "
            + (
                "which is another disk where the node has one"
                if sometimes
                else "which no network disk is called"
            ),
            next_step=f"name the root by LABEL or UUID, or {_PREPARE}",
        )
    elif kind in known and value.strip('"').lower() != known[kind].lower():
        yield Finding(
            code="root-not-found",
            severity=Severity.BLOCKS,
            message=f"the kernel is told root={root}, but the root file system has the {kind} {known[kind]}",
            next_step="make GRUB's configuration anew in the image",
        )
