"""What a start finds that dead processes left behind: volumes half-made or half-removed, snapshots, trash."""

from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd import header
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.fencing import watchers
from bmi.drivers.storage.rbd.names import MARK, is_ours, volume_named
from bmi.drivers.storage.rbd.removal import parent_id, purge, remove
from bmi.drivers.storage.rbd.session import Session
from bmi.drivers.storage.rbd.whole import is_whole

_OLD = timedelta(minutes=10)  # far longer than a living process takes between two of its steps


def sweep(session: Session, volume: Volume) -> None:
    """Remove a volume that a process left half-made when it died, and what it left on a whole one."""
    with suppress(rbd.ImageNotFound, rbd.ImageBusy, rbd.ImageHasSnapshots):
        if _left_behind(session, volume):
            remove(session, volume)
        elif volume.kind is Kind.DISK:
            _sweep_snapshots(session, volume)


def sweep_trash(session: Session) -> None:
    """Remove from the trash what nobody needs any more, and what somebody died at while he put it there."""
    entries = list(session.rbd.trash_list(session.pool))
    named = {each["id"] for each in session.rbd.list2(session.pool)}
    for entry in entries:
        if is_ours(entry["name"]) and entry["id"] not in named and _age(entry["deletion_time"]) > _OLD:
            header.end_move(session, entry["id"])
        purge(session, entry["id"])


def _left_behind(session: Session, volume: Volume) -> bool:
    """Say whether a volume is half-made, or half-removed, by a process that is gone."""
    if is_whole(session, volume):
        return False
    try:
        with session.image(str(volume)) as image:
            # Looked at once more when nobody has it open: its maker may have ended in between, and well.
            if watchers(session, image) or is_whole(session, volume):
                return False
            marked, cloned = MARK in dict(image.metadata_list()), parent_id(image) is not None
            if marked and cloned:
                # Perhaps a snapshot in the making, between two steps: nobody has it open then.
                return _age(image.create_timestamp()) > _OLD
            # What has neither may be somebody else's, whatever its name.
            return marked or (cloned and _child_of_ours(image))
    except rbd.ImageNotFound:
        return True


def _child_of_ours(image: Any) -> bool:
    return volume_named(image.get_parent_image_spec()["image_name"]) is not None


def _sweep_snapshots(session: Session, volume: Volume) -> None:
    """Remove the snapshots on a disk whose images were never made, or are made and need them no more."""
    with session.image(str(volume)) as image:
        stale = list(_stale_snapshots(image))
    if stale:
        with session.image(str(volume), read_only=False) as image:
            for name in stale:
                image.remove_snap(name)


def _stale_snapshots(image: Any) -> Iterator[str]:
    for snapshot in image.list_snaps():
        if volume_named(snapshot["name"]) and _age(image.get_snap_timestamp(snapshot["id"])) > _OLD:
            yield snapshot["name"]


def _age(made: datetime) -> timedelta:
    """Return how long ago a time was that the bindings give, in UTC without saying so."""
    return datetime.now(UTC) - made.replace(tzinfo=UTC)
