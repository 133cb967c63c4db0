"""From the kernel to the root file system: what the initramfs needs to reach a disk over iSCSI."""

from collections.abc import Iterator

from bmi.api.readiness import Finding, Severity
from bmi.images.readiness.facts import Initramfs, System, options

_VIRTUAL = frozenset({"virtio_net", "vmxnet3", "hv_netvsc", "xen_netfront", "ena", "gve"})
_SERVERS = frozenset(
    {
        "e1000e",
        "igb",
        "ixgbe",
        "i40e",
        "ice",
        "mlx4_en",
        "mlx5_core",
        "bnx2x",
        "bnxt_en",
        "tg3",
        "be2net",
        "qede",
    }
)
_PREPARE = "have it made ready: bmi image prepare"


def initramfs(system: System) -> Iterator[Finding]:
    """Look at the initramfs of the newest kernel."""
    found = system.initramfs
    if found is None:
        yield Finding(
            code="no-initramfs",
            severity=Severity.BLOCKS,
            message="there is no initramfs in /boot: a kernel alone does not reach a disk over iSCSI",
            next_step="make one in the image, or use another image",
        )
    elif found.trouble:
        yield Finding(
            code="initramfs-unreadable",
            severity=Severity.WARNS,
            message=f"{found.path} cannot be read: {found.trouble}",
            next_step="boot a node from the image to see whether it works",
        )
    else:
        yield from _iscsi(system, found)
        yield from _drivers(system, found)


def _iscsi(system: System, found: Initramfs) -> Iterator[Finding]:
    if not any(name.rsplit("/", 1)[-1] in ("iscsistart", "iscsiroot") for name in found.names):
        yield Finding(
            code="initramfs-no-iscsi",
            severity=Severity.BLOCKS,
            message=f"{found.path} has no iSCSI initiator",
            next_step=_PREPARE,
        )
        return
    if not _uses_firmware(system, found):
        yield Finding(
            code="ibft-not-used",
            severity=Severity.BLOCKS,
            message="the initramfs does not ask the firmware for the disk that it was booted from (iBFT)",
            next_step=_PREPARE,
        )
    there = found.modules() | set(system.builtin)
    for module, what in (
        ("iscsi_tcp", "iSCSI over TCP"),
        ("iscsi_ibft", "the iBFT"),
        ("sd_mod", "SCSI disks"),
    ):
        if module not in there:
            yield Finding(
                code=f"initramfs-no-{module.replace('_', '-')}",
                severity=Severity.BLOCKS,
                message=f"{found.path} has no driver for {what} ({module})",
                next_step=_PREPARE,
            )


def _uses_firmware(system: System, found: Initramfs) -> bool:
    """Say whether what the firmware left about the disk is used."""
    own = found.texts.get("etc/iscsi.initramfs", "")
    script = found.texts.get("scripts/local-top/iscsi", "")
    if "ISCSI_AUTO=true" in own.split() or (
        "iscsistart -b\n" in f"{script}\n" and "ISCSI_AUTO" not in script
    ):
        return True
    lines = [*system.command_lines()[:1], *(text for name, text in found.texts.items() if "cmdline" in name)]
    if any("iscsi_auto" in line.split() for line in lines) and "iscsi_auto" in script:
        return True
    return any(
        value in ("", "1", "true")
        for line in lines
        for name in ("rd.iscsi.firmware", "rd.iscsi.ibft", "iscsi_firmware")
        for value in options(line, name)
    ) or any(value.startswith("iscsi") for line in lines for value in options(line, "netroot"))


def _drivers(system: System, found: Initramfs) -> Iterator[Finding]:
    there = found.modules() | set(system.builtin)
    if not there & (_VIRTUAL | _SERVERS):
        yield Finding(
            code="initramfs-no-nic",
            severity=Severity.BLOCKS,
            message=f"{found.path} has no driver for any usual network card",
            next_step=_PREPARE,
        )
    elif not there & _SERVERS:
        yield Finding(
            code="virtual-nics-only",
            severity=Severity.WARNS,
            message=f"{found.path} has drivers for network cards of virtual machines only",
            next_step="install a kernel for servers in the image (Debian: linux-image-amd64) for nodes of metal",
        )
