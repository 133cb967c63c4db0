"""How seeds get their contents: each is a snapshot, and the newest one counts."""

from contextlib import suppress

from bmi.drivers.storage import Volume
from bmi.drivers.storage.rbd import fencing, making
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.names import MARK, seed_number, seed_snapshot
from bmi.drivers.storage.rbd.session import Session
from bmi.drivers.storage.rbd.whole import newest_seed, user_snapshots


def holds(session: Session, seed: Volume, content: bytes) -> bool:
    """Say whether a seed is there and has this content."""
    with suppress(rbd.ImageNotFound), session.image(str(seed)) as image:
        newest = newest_seed(image)
        return newest is not None and newest == seed_snapshot(seed_number(newest), content)
    return False


def write(session: Session, seed: Volume, content: bytes, *, mark: str) -> None:
    """Give a seed a content, and make the seed if it is not there.

    Args:
        session: The session.
        seed: The seed.
        content: Whole sectors.
        mark: The value of its mark.
    """
    if making.create(session, seed, len(content)):
        with making.or_nothing(session, seed):
            _add(session, seed, content, mark)
    else:
        _add(session, seed, content, mark)


def _add(session: Session, seed: Volume, content: bytes, mark: str) -> None:
    with session.image(str(seed), read_only=False) as image:
        image.metadata_set(MARK, mark)
        before = user_snapshots(image)
        image.resize(len(content))
        image.write(content, 0)
        image.flush()
        image.create_snap(seed_snapshot(max(map(seed_number, before), default=0) + 1, content))
        # A target that has it open goes on reading what it opened.
        if not fencing.watchers(session, image):
            for name in before:
                image.remove_snap(name)
