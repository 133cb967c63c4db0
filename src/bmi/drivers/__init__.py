"""What BMI drives: storage, iSCSI targets, switches, power, the gateway's legs, the site's inventory.

Each family is one small protocol in `drivers/<family>/__init__.py`. A driver is a class found by its entry-point
name in the group `bmi.<family>`, made with its options and a `Site`. Every verb is idempotent.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from bmi.errors import SettingsInvalid
from bmi.rights import OWN, Rights


class Outcome(StrEnum):
    """What a verb found: whether it had something to do."""

    DONE = "done"
    ALREADY = "already"


@dataclass(frozen=True)
class Site:
    """Where a driver works: what every driver of one installation shares."""

    state_dir: Path
    """Folder for files that must survive a restart; the driver makes its own sub-folder."""
    installation: str
    """Eight hexadecimal digits that mark what belongs to this installation of BMI."""
    rights: Rights = OWN
    """How it does what takes root's rights."""


class Options(BaseModel):
    """Base of a driver's own options: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Parsed = TypeVar("Parsed", bound=Options)


def parse_options(model: type[Parsed], options: Mapping[str, Any], *, driver: str) -> Parsed:
    """Return a driver's options, typed.

    Raises:
        SettingsInvalid: An option is unknown, missing or has a value that cannot be used.
    """
    try:
        return model.model_validate(dict(options))
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise SettingsInvalid(
            f"option {name!r} of driver {driver}: {first['msg']}", next_step="correct it in the settings file"
        ) from error


def load(family: str, name: str, options: Mapping[str, Any], site: Site) -> Any:
    """Make the driver that the settings name.

    Args:
        family: `storage`, `target`, `switch`, `power`, `leg` or `inventory`.
        name: Entry-point name in the group `bmi.<family>`.
        options: The driver's own options, from the settings.
        site: Where the driver works.

    Raises:
        SettingsInvalid: There is no such driver, or it refuses its options.
    """
    known = {point.name: point for point in entry_points(group=f"bmi.{family}")}
    if name not in known:
        raise SettingsInvalid(
            f"there is no {family} driver {name!r}", next_step=f"use one of: {', '.join(sorted(known))}"
        )
    return known[name].load()(options, site)
