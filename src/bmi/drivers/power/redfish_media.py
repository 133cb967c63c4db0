"""Virtual media of a Redfish controller: drives that only the node sees, with images from the network in them."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import sushy

from bmi.drivers.power.redfish_connection import Lacking


def inserted(system: Any) -> list[str]:
    """Name the images in a system's virtual drives, read this moment."""
    return [drive.image or drive.image_name or drive.identity for drive in _drives(system) if _holds(drive)]


def eject(system: Any) -> None:
    """Ask for the virtual drives that hold something to be emptied."""
    for drive in _drives(system):
        if not _holds(drive):
            continue
        try:
            drive.eject_media()
        except sushy.exceptions.MissingActionError as error:
            raise Lacking(f"cannot eject what is in its virtual drive {drive.identity}") from error


def _drives(system: Any) -> Iterator[Any]:
    for collection in _collections(system):
        collection.refresh()
        for drive in collection.get_members():
            drive.refresh()
            yield drive


def _collections(system: Any) -> Iterator[Any]:
    """Find a system's drives; older controllers have them beside the manager (DSP0268, ComputerSystem 1.13)."""
    with suppress(sushy.exceptions.MissingAttributeError):
        yield system.virtual_media
        return
    with suppress(sushy.exceptions.MissingAttributeError):
        for manager in system.managers:
            if _serves_others(manager):
                continue
            with suppress(sushy.exceptions.MissingAttributeError):
                yield manager.virtual_media


def _serves_others(manager: Any) -> bool:
    """Say whether a manager has several servers: its drives may be those of another node."""
    return len((manager.json.get("Links") or {}).get("ManagerForServers") or ()) > 1


def _holds(drive: Any) -> bool:
    return bool(drive.inserted or drive.image)
