"""How volumes, and what marks them as whole, are called in Ceph.

    image-<id>   an image; whole once its snapshot `bmi`, which clones are made of, can be opened. Ceph lists a
                 snapshot before it makes its object map; when its maker dies in between, it never can be
    disk-<id>    a disk; whole once its metadata have the key `bmi`. Ceph copies the metadata of an image to its
                 clone as the last thing it does, so a clone that has the key has everything
    seed-<id>    a seed; each content that it ever got is a snapshot `<number>-<digest>`, the newest counts

A disk that is frozen has a snapshot of the new image's name, until the new image is whole.
"""

from hashlib import blake2b
from uuid import UUID

from bmi.drivers.storage import Kind, Volume

MARK = "bmi"
"""Key of the metadata that every volume of BMI has."""

FROZEN = "bmi"
"""Snapshot of an image that its clones are made of."""


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
