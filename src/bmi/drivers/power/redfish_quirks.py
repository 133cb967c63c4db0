"""What Redfish controllers do in ways of their own. Every quirk that we know of is here and nowhere else."""

from dataclasses import dataclass
from typing import Any

import sushy

_SETTINGS = "@Redfish.Settings"
_TARGET = "BootSourceOverrideTarget"
_ENABLED = "BootSourceOverrideEnabled"


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
    # 106), others have no mode and refuse it (ironcore metal-operator, pull request 985): send back what is read.
    supermicro = (system.manufacturer or "").lower() == "supermicro"
    return Quirks(enabled or wishes, system.boot.mode if supermicro and system.boot else None)


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
