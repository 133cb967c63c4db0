"""What images depend on, and how they become independent."""

from typing import Any

from bmi.drivers.storage import Progress, Usage
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.session import Session

_CANCEL = -125  # ECANCELED: what a progress callback returns to end a flatten


def depth(session: Session, name: str, snapshot: str | None) -> int:
    """Return how many images an image depends on, one behind the other."""
    count, id, pool = 0, None, None
    while True:
        with session.image(None if id else name, id=id, snapshot=snapshot, pool=pool) as image:
            try:
                spec, id = image.get_parent_image_spec(), image.parent_id()
            except rbd.ImageNotFound:
                return count
        pool = session.open(spec["pool_name"], spec["pool_namespace"])
        snapshot = None
        count += 1


def usage(session: Session, name: str, snapshot: str | None) -> Usage:
    """Return what an image takes, from its object map: whole objects, nothing is read."""
    with session.image(name, snapshot=snapshot) as image:
        own = _stored(image, with_parents=False)
        return Usage(own=own, shared=_stored(image, with_parents=True) - own)


def flatten(image: Any, progress: Progress) -> None:
    """Copy what an open image has of its parents.

    Args:
        image: The image, open for writing.
        progress: What it raises ends the copy; what was copied stays, and does no harm.
    """
    size, raised = image.size(), list[BaseException]()

    def told(done: int, total: int) -> int:
        # Exceptions do not pass through librbd.
        try:
            progress(size * done // total, size)
        except BaseException as error:
            raised.append(error)
            return _CANCEL
        return 0

    try:
        image.flatten(on_progress=told)
    except rbd.Error:
        if raised:
            raise raised[0] from None
        raise
    progress(size, size)


def _stored(image: Any, *, with_parents: bool) -> int:
    total = 0

    def found(offset: int, length: int, exists: bool) -> None:
        nonlocal total
        total += length if exists else 0

    image.diff_iterate(0, image.size(), None, found, include_parent=with_parents, whole_object=True)
    return total
