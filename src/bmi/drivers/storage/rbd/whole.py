"""Tells whole volumes from half-made ones, see `names`."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.names import FROZEN, MARK, next_name, seed_number
from bmi.drivers.storage.rbd.session import Session


def is_whole(session: Session, volume: Volume) -> bool:
    """Say whether a volume is there, and whole."""
    return size_of(session, volume) is not None


def has_mark(image: Any) -> bool:
    """Say whether an open image has the mark that makes a disk whole."""
    try:
        image.metadata_get(MARK)
    except KeyError:
        return False
    return True


def user_snapshots(image: Any) -> list[str]:
    """Return the names of an open image's snapshots, without those that only clones keep."""
    return [
        each["name"] for each in image.list_snaps() if each["namespace"] == rbd.RBD_SNAP_NAMESPACE_TYPE_USER
    ]


def newest_seed(image: Any) -> str | None:
    """Return the name of the snapshot with a seed's content, None if it never got any."""
    name = max(user_snapshots(image), key=seed_number, default=None)
    return name if name and seed_number(name) else None


def snapshot_to_read(session: Session, volume: Volume) -> str | None:
    """Return the snapshot in which a volume's content lies, None for a disk.

    Raises:
        rbd.ImageNotFound: There is no such volume, or it is not whole.
    """
    match volume.kind:
        case Kind.IMAGE:
            return FROZEN
        case Kind.DISK:
            return None
        case Kind.SEED:
            with session.image(str(volume)) as image:
                if name := newest_seed(image):
                    return name
            raise rbd.ImageNotFound(f"{volume} has no content")


def size_of(session: Session, volume: Volume) -> int | None:
    """Return the size of a whole volume in bytes, None if there is none."""
    try:
        match volume.kind:
            case Kind.IMAGE:
                with session.image(str(volume), snapshot=FROZEN) as image:
                    return int(image.size())
            case Kind.DISK:
                return _disk_size(session, volume)
            case Kind.SEED:
                with session.image(str(volume)) as image:
                    newest = newest_seed(image)
                    return next((each["size"] for each in image.list_snaps() if each["name"] == newest), None)
    except rbd.ImageNotFound:
        return None


def finish_swap(session: Session, disk: Volume) -> bool:
    """Give a disk that has no content the one that it was to get, see `swap`; say whether there was one."""
    try:
        session.rbd.rename(session.pool, next_name(disk), str(disk))
    except (rbd.ImageNotFound, rbd.ImageExists):
        return False
    return True


def _disk_size(session: Session, disk: Volume) -> int | None:
    try:
        with session.image(str(disk)) as image:
            return int(image.size()) if has_mark(image) else None
    except rbd.ImageNotFound:
        return _disk_size(session, disk) if finish_swap(session, disk) else None


def sizes(session: Session, volumes: list[Volume], side_by_side: int) -> Iterator[tuple[Volume, int]]:
    """Yield the whole ones of some volumes with their sizes."""
    with ThreadPoolExecutor(side_by_side) as threads:
        for volume, size in zip(
            volumes, threads.map(lambda each: size_of(session, each), volumes), strict=True
        ):
            if size is not None:
                yield volume, size
