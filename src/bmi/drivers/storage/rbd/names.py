"""How volumes, and what marks them as whole, are called in Ceph.

    image-<id>   an image; whole once its snapshot `bmi`, which clones are made of, can be opened. Ceph lists a
                 snapshot before it makes its object map; when its maker dies in between, it never can be
    disk-<id>    a disk; whole once its metadata have the key `bmi`. Ceph copies the metadata of an image to its
                 clone as the last thing it does, so a clone that has the key has everything
    seed-<id>    a seed; each content that it ever got is a snapshot `<number>-<digest>`, the newest counts

    next-<id>    what a disk is to become that is being rolled back, see `swap`

A disk that is frozen has a snapshot of the new image's name, until the new image is whole.
"""

from hashlib import blake2b
from uuid import UUID

from bmi.drivers.storage import Kind, Volume

MARK = "bmi"
"""Key of the metadata that every volume of BMI has."""

FROZEN = "bmi"
"""Snapshot of an image that its clones are made of."""

_NEXT = "next-"

FEATURES = 1 | 4 | 8 | 16 | 32
"""Layering, exclusive lock, object map, fast diff, deep flatten (librbd.h): of images and disks."""

SEED_FEATURES = 1
"""Of seeds: without an object map, a snapshot is there in one step."""


def volume_named(name: str) -> Volume | None:
    """Return the volume that an RBD image holds, None for images that are not BMI's."""
    kind, _, id = name.partition("-")
    try:
        volume = Volume(Kind(kind), UUID(id))
    except ValueError:
        return None
    return volume if str(volume) == name else None


def next_name(disk: Volume) -> str:
    """Return what a disk's next content is called until it is the disk."""
    return f"{_NEXT}{disk.id}"


def disk_of_next(name: str) -> Volume | None:
    """Return the disk whose next content an RBD image is, None for all others."""
    if not name.startswith(_NEXT):
        return None
    disk = volume_named(f"{Kind.DISK}-{name.removeprefix(_NEXT)}")
    return disk if disk and next_name(disk) == name else None


def is_ours(name: str) -> bool:
    """Say whether an RBD image is BMI's: a volume, or what one is to become."""
    return volume_named(name) is not None or disk_of_next(name) is not None


def seed_snapshot(number: int, content: bytes) -> str:
    """Return the name of the snapshot for a seed's content.

    Args:
        number: Counts up with each content.
        content: The content.
    """
    return f"{number}-{blake2b(content, digest_size=16).hexdigest()}"


def seed_number(snapshot: str) -> int:
    """Return which of a seed's contents a snapshot holds, 0 if none."""
    number, _, digest = snapshot.partition("-")
    return int(number) if digest and number.isdigit() else 0
