"""How images are made of what is in the pool already: each is a clone that is frozen at once.

Nothing is copied. Ceph clones snapshots only, so what is not frozen gets one for as long as the clone is made.
"""

from contextlib import suppress
from typing import Any

from bmi.drivers import Outcome
from bmi.drivers.storage import Volume
from bmi.drivers.storage.rbd import making
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.failures import ERRORS, missing
from bmi.drivers.storage.rbd.names import FROZEN, MARK
from bmi.drivers.storage.rbd.session import Session
from bmi.drivers.storage.rbd.whole import has_mark, size_of
from bmi.drivers.storage.source import require_size
from bmi.errors import ImageInvalid, StorageUnreachable

_ATTEMPTS = 3


def freeze_disk(session: Session, disk: Volume, image: Volume) -> Outcome:
    """Make an image of a disk.

    Raises:
        NotFound: There is no such disk.
        StorageUnreachable: Ceph still does what an earlier call asked for.
    """
    for _ in range(_ATTEMPTS):
        try:
            with session.image(str(disk), read_only=False) as opened:
                if not has_mark(opened):
                    raise missing(disk)
                return _freeze(session, opened, str(disk), image, mark=None)
        except rbd.ImageNotFound:
            # It can also be the disk's snapshot that is not there: what an earlier call asked for while
            # Ceph was silent, the removal of that snapshot among it, may only be done now.
            if size_of(session, disk) is None:
                raise missing(disk) from None
    raise StorageUnreachable(
        f"{image} could not be made: Ceph is still busy with an earlier call about it", next_step="try again"
    )


def freeze_image(session: Session, source: Volume, image: Volume) -> Outcome:
    """Make an image of an image.

    Raises:
        NotFound: There is no such image.
    """
    try:
        made = making.clone(session, str(source), FROZEN, image)
    except rbd.ImageNotFound:
        raise missing(source) from None
    if made:
        with making.or_nothing(session, image):
            _seal(session, image, mark=None)
    return Outcome.DONE if made else Outcome.ALREADY


def freeze_foreign(session: Session, name: str, image: Volume, *, mark: str) -> int:
    """Make an image of an RBD image that is not BMI's.

    Args:
        session: The session.
        name: The name of what is not BMI's.
        image: The image to make.
        mark: The value of the image's mark.

    Returns:
        The image's size in bytes.

    Raises:
        rbd.ImageNotFound: There is none of that name.
        ImageInvalid: It cannot be an image.
    """
    with session.image(name, read_only=False) as opened:
        size = int(opened.size())
        _require_adoptable(opened, name)
        _freeze(session, opened, name, image, mark=mark)
    return size


def _freeze(session: Session, opened: Any, name: str, image: Volume, *, mark: str | None) -> Outcome:
    """Make an image of what an open RBD image holds, see `_seal`."""
    with suppress(rbd.ImageExists):  # an earlier call was interrupted
        opened.create_snap(str(image))
    try:
        made = making.clone(session, name, str(image), image)
        if made:
            with making.or_nothing(session, image):
                _seal(session, image, mark=mark)
    finally:
        # Ceph keeps what the clone needs, and lets go of it with the clone.
        with suppress(*ERRORS):
            opened.remove_snap(str(image))
    return Outcome.DONE if made else Outcome.ALREADY


def _seal(session: Session, image: Volume, *, mark: str | None) -> None:
    """Make a clone an image.

    Args:
        session: The session.
        image: The clone.
        mark: The value of its mark; None if it got one from what it was cloned from.
    """
    with session.image(str(image), read_only=False) as opened:
        if mark is not None:
            opened.metadata_set(MARK, mark)
        opened.create_snap(FROZEN)


def _require_adoptable(opened: Any, name: str) -> None:
    if opened.old_format() or not opened.features() & rbd.RBD_FEATURE_LAYERING:
        raise ImageInvalid(
            f"{name} cannot be cloned: it lacks the feature layering",
            next_step=f"copy it into an image that has it (rbd deep cp {name} NEW), and adopt that",
        )
    require_size(name, opened.size())
