"""Writes host name and keys into a clone, where nothing in the system reads a seed."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bmi.drivers.storage import Backing
from bmi.images.appliance.session import Appliance, Tell

_FILES = Path(__file__).parent / "files"
_UNIT = "bmi-phone-home.service"


@dataclass(frozen=True)
class Identity:
    """Who a clone is to be."""

    instance_id: str
    hostname: str
    ssh_keys: Sequence[str]
    """Public keys, each as in a line of authorized_keys without options."""
    phone_home_url: str = field(repr=False)


def personalise(appliance: Appliance, backing: Backing, identity: Identity, tell: Tell) -> list[str]:
    """Make a clone one particular node; one that it is already stays as it is.

    Keys of former owners go. The system gets a host key and a machine id of its own, and reports when it is up.

    Args:
        appliance: What writes.
        backing: The clone, which nobody else uses.
        identity: Who it is to be; checked by whoever wrote it down.
        tell: Told how far it is.

    Returns:
        Names of the users who let the keys in; none if it was done before.

    Raises:
        ApplianceUnavailable: Disks cannot be changed here.
        ApplianceFailed: This one cannot be.
        ImageInvalid: There is no operating system in it.
        CommandTimedOut: It took too long.
    """
    files = {
        "/usr/lib/bmi/phone-home": (0o755, (_FILES / "phone-home").read_text()),
        f"/etc/systemd/system/{_UNIT}": (0o644, (_FILES / _UNIT).read_text()),
        "/var/lib/bmi/phone-home-url": (0o600, f"{identity.phone_home_url}\n"),
    }
    request = {
        "instance_id": identity.instance_id,
        "hostname": identity.hostname,
        "keys": list(identity.ssh_keys),
        "files": files,
        "unit": _UNIT,
    }
    answer = appliance.ask(backing, "personalise", request, tell=tell, writable=True)
    return [str(user) for user in answer["users"]]
