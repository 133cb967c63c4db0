"""Says whether an image can boot over iSCSI, and why not."""

from collections.abc import Iterator

from pydantic import ValidationError

from bmi.api.readiness import Finding, Report, Severity
from bmi.db import now
from bmi.drivers.storage import Backing
from bmi.errors import ApplianceFailed
from bmi.images.appliance.session import Appliance, Tell
from bmi.images.readiness import boot_chain, network_root, running
from bmi.images.readiness.facts import DiskReport

_ORDER = tuple(Severity)


def check(appliance: Appliance, backing: Backing, tell: Tell) -> Report:
    """Look into an image, and judge what was seen. The image is not changed.

    Args:
        appliance: What looks.
        backing: The image.
        tell: Told how far it is.

    Raises:
        ApplianceUnavailable: Disks cannot be looked into here.
        ApplianceFailed: This one cannot be.
        CommandTimedOut: It took too long.
    """
    return judge(look(appliance, backing, tell))


def look(appliance: Appliance, backing: Backing, tell: Tell) -> DiskReport:
    """Look into an image.

    Raises:
        ApplianceUnavailable: Disks cannot be looked into here.
        ApplianceFailed: This one cannot be.
        CommandTimedOut: It took too long.
    """
    try:
        return DiskReport.model_validate(appliance.ask(backing, "look", {}, tell=tell))
    except ValidationError as error:
        raise ApplianceFailed(
            "the appliance saw something in the disk that cannot be",
            next_step="the image is broken, or made to do harm: do not use it",
        ) from error


def judge(seen: DiskReport) -> Report:
    """Say what is wrong with what was seen, the worst first."""
    findings = sorted(_findings(seen), key=lambda finding: _ORDER.index(finding.severity))
    system = seen.system
    return Report(
        system=system.name if system else "",
        findings=findings,
        cloud_init=bool(system and system.cloud_init),
        first_boot=bool(system and system.first_boot),
        checked_at=now(),
    )


def _findings(seen: DiskReport) -> Iterator[Finding]:
    yield from boot_chain.loaders(seen)
    system = seen.system
    if system is None:
        yield _no_system(seen)
        return
    yield from running.recognised(system)
    yield from boot_chain.kernel(system)
    if system.kernels:
        yield from network_root.initramfs(system)
    yield from running.network(system)
    yield from running.file_systems(seen, system)
    yield from running.first_boot(system)
    yield from running.identity(system)


def _no_system(seen: DiskReport) -> Finding:
    if any(part.content == "crypto_LUKS" for part in seen.disk.partitions):
        return Finding(
            code="encrypted",
            severity=Severity.BLOCKS,
            message="no operating system was found, but an encrypted partition: it cannot be looked into, and a "
            "node would ask for its password",
            next_step="use an image that is not encrypted",
        )
    return Finding(
        code="no-system",
        severity=Severity.BLOCKS,
        message="no Linux was found on any partition or logical volume (ext4, xfs, btrfs)",
        next_step="check that this is the image of a whole disk",
    )
