"""What Redfish controllers do in ways of their own. Every quirk that we know of is here and nowhere else."""

from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import sushy

from bmi.drivers.power import Bmc
from bmi.errors import BmcRefused

_SETTINGS = "@Redfish.Settings"
_TARGET = "BootSourceOverrideTarget"
_ENABLED = "BootSourceOverrideEnabled"
_MODE = "BootSourceOverrideMode"

BOOT_MODE = "boot_mode"
"""BMC option: `uefi` or `legacy`, where the node is to be started so; it is left alone without."""

_MODES = {"uefi": sushy.BOOT_SOURCE_MODE_UEFI, "legacy": sushy.BOOT_SOURCE_MODE_BIOS}
_OLD_ETAG = (HTTPStatus.PRECONDITION_FAILED, HTTPStatus.PRECONDITION_REQUIRED)
_TRIES = 3  # orders to a controller whose resource changes while it is ordered


@dataclass(frozen=True)
class Quirks:
    """How one controller wants to be told what to boot from."""

    enabled: tuple[Any, ...]
    """How long an override holds: what to try, best first."""
    mode: Any
    """Boot mode to send along; None sends none."""


def quirks_of(system: Any) -> Quirks:
    """Say how a system's controller wants to be told what to boot from."""
    boot = (system.json or {}).get("Boot") or {}
    wishes = (sushy.BOOT_SOURCE_ENABLED_CONTINUOUS, sushy.BOOT_SOURCE_ENABLED_ONCE)
    # Controllers may say which they can do (DSP0268, ComputerSystem 1.5); others refuse what they cannot.
    offered = boot.get(f"{_ENABLED}@Redfish.AllowableValues")
    enabled = tuple(wish for wish in wishes if not offered or wish.value in offered)
    # Some Supermicro boards forget the target unless the mode comes with it (DMTF Redfishtool, pull request
    # 106), or refuse to end an override without it (community.general, pull request 11543); others have no mode and
    # refuse it (ironcore metal-operator, pull request 985): send back what is read.
    supermicro = (system.manufacturer or "").lower() == "supermicro"
    return Quirks(enabled or wishes, system.boot.mode if supermicro and system.boot else None)


def order(system: Any, **what: Any) -> None:
    """Change a system's boot section.

    Lenovo's and AMI's controllers ask for the ETag of what is changed (gofish, issue 171; ansible, pull request
    56150), which sushy sends. They refuse one that became old since (operations-center, issue 1040); sushy then
    tries without, which they refuse too: it is read anew.
    """
    for left in reversed(range(_TRIES)):
        try:
            system.set_system_boot_options(**what)
            return
        except sushy.exceptions.HTTPError as error:
            if error.status_code not in _OLD_ETAG or not left:
                raise
            system.refresh()


def wanted_mode(bmc: Bmc) -> Any:
    """Return the boot mode that a node is to be started in; None where that is left alone.

    Raises:
        BmcRefused: Its option is neither `uefi` nor `legacy`.
    """
    named = bmc.options.get(BOOT_MODE, "")
    if named and named not in _MODES:
        raise BmcRefused(
            f"BMC {bmc.address}: its option {BOOT_MODE} is {named!r}",
            next_step="use uefi or legacy, or leave it out",
        )
    return _MODES.get(named)


def boot_mode(system: Any) -> Any:
    """Read the boot mode of the next start; None if the controller does not tell.

    HPE's and Cisco's controllers tell, and do not let it be changed (openshift-docs, pull request 107591).
    """
    boot = _pending_boot(system)
    if boot.get(_MODE) is None:
        boot = (system.json or {}).get("Boot") or {}
    return _member(sushy.BootSourceOverrideMode, boot.get(_MODE))


def boot_override(system: Any) -> tuple[Any, Any]:
    """Read the boot target and how long it holds; None for what is not set.

    Newer iDRACs and others keep the override in a settings resource that the next start applies, and go on to
    report the old one in the system itself.
    """
    boot = _pending_boot(system)
    if boot.get(_TARGET) is None:
        boot = (system.json or {}).get("Boot") or {}
    return (
        _member(sushy.BootSource, boot.get(_TARGET)),
        _member(sushy.BootSourceOverrideEnabled, boot.get(_ENABLED)),
    )


def _pending_boot(system: Any) -> dict[str, Any]:
    place = ((system.json or {}).get(_SETTINGS) or {}).get("SettingsObject") or {}
    if "@odata.id" not in place:
        return {}
    # sushy reads it too, but only fills gaps with it; its clone_resource would turn the system's reader away.
    settings: dict[str, Any] = system._conn.get(place["@odata.id"]).json()
    return settings.get("Boot") or {}


def _member(kind: Any, value: Any) -> Any:
    return kind(value) if value in {member.value for member in kind} else None
