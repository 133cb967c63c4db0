"""Volumes that appear whole or not at all, although Ceph makes them in several steps.

A volume has its final name from the first step on, and counts once it has its mark, which it gets last
(see `names`). Whoever finds a half-made one waits for its maker, or takes the place of a dead one: a maker
holds what it makes open, and Ceph knows for half a minute after its death that it did.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.failures import ERRORS
from bmi.drivers.storage.rbd.fencing import watchers
from bmi.drivers.storage.rbd.names import FEATURES, SEED_FEATURES
from bmi.drivers.storage.rbd.removal import remove
from bmi.drivers.storage.rbd.session import Session
from bmi.drivers.storage.rbd.whole import is_whole
from bmi.errors import BmiError, DeadlineExceeded, InUse
from bmi.wait import wait_until

_MAKER_DEADLINE = 45.0  # seconds; half a minute until a dead maker is known to be dead, and some more
_GAP = 1.0  # seconds; a living maker opens what it has just created within milliseconds
_POLL = 0.2  # seconds
_ATTEMPTS = 5


def create(session: Session, volume: Volume, size: int) -> bool:
    """Make an empty image for a volume, in the place of a dead maker's half-made one.

    Returns:
        False if the volume exists and is whole.
    """

    def make() -> None:
        features = SEED_FEATURES if volume.kind is Kind.SEED else FEATURES
        session.rbd.create(session.pool, str(volume), size, old_format=False, features=features)

    return _in_place(session, volume, make)


def clone(session: Session, source: str, snapshot: str, volume: Volume) -> bool:
    """Clone a snapshot, in the place of a dead maker's half-made one.

    Returns:
        False if the volume exists and is whole.

    Raises:
        rbd.ImageNotFound: There is no such image or snapshot.
    """

    def make() -> None:
        session.rbd.clone(session.pool, source, snapshot, session.pool, str(volume), features=FEATURES)

    return _in_place(session, volume, make)


def give_up(session: Session, volume: Volume) -> None:
    """Remove what was made of a volume before something failed; what stays is swept later."""
    with suppress(BmiError, *ERRORS):
        remove(session, volume)


@contextmanager
def or_nothing(session: Session, volume: Volume) -> Iterator[None]:
    """Remove what was made of a volume if something fails."""
    try:
        yield
    except BaseException:
        give_up(session, volume)
        raise


def _in_place(session: Session, volume: Volume, make: Callable[[], None]) -> bool:
    for _ in range(_ATTEMPTS):
        try:
            make()
        except rbd.ImageExists:
            if _settle(session, volume):
                return False
        else:
            return True
    raise InUse(f"{volume} is made by several processes at once", next_step="try again")


def _settle(session: Session, volume: Volume) -> bool:
    """Wait until a volume is whole, or remove it when its maker died; say whether it is whole."""

    def fate() -> str | None:
        if is_whole(session, volume):
            return "whole"
        try:
            with session.image(str(volume)) as image:
                if watchers(session, image):
                    return None
        except rbd.ImageNotFound:
            return "left"
        # Its maker may have ended between the two looks, and well.
        return "whole" if is_whole(session, volume) else "left"

    began = time.monotonic()

    def settled() -> str | None:
        found = fate()
        # One that nobody has open may have been created in this very moment.
        return None if found == "left" and time.monotonic() - began < _GAP else found

    try:
        found = wait_until(settled, deadline=_MAKER_DEADLINE, what=str(volume), next_step="", poll=_POLL)
    except DeadlineExceeded as error:
        raise InUse(
            f"{volume} is being made by another process", next_step="wait until it is done, and try again"
        ) from error
    if found == "left":
        give_up(session, volume)
    return found == "whole"
