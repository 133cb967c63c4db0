"""How a disk gets another content at once, although Ceph cannot exchange two images.

The new content is made whole beside the disk, as `next-<id>`. Then the old one goes into the trash, and the new one
gets the disk's name. In between there is no image of that name: `next-<id>` is the disk then, and whoever looks for
the disk gives it its name (`whole.finish_swap`). So a disk that is removed loses its `next-<id>` first.
"""

from contextlib import suppress

from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd import removal
from bmi.drivers.storage.rbd.bindings import rados, rbd
from bmi.drivers.storage.rbd.header import ID_OBJECT
from bmi.drivers.storage.rbd.names import FEATURES, FROZEN, disk_of_next, next_name, volume_named
from bmi.drivers.storage.rbd.session import Session
from bmi.drivers.storage.rbd.whole import finish_swap
from bmi.errors import DeadlineExceeded, InUse
from bmi.wait import wait_until

_GAP = 1.0  # seconds; a living process is done long before


def roll_back(session: Session, disk: Volume, source: Volume, size: int) -> None:
    """Put a clone of an image in the place of a disk, and cut off whoever has the disk open.

    Args:
        session: The session.
        disk: The disk, which is whole.
        source: The image.
        size: Bytes that the disk has then at least.

    Raises:
        rbd.ImageNotFound: There is no such image.
        InUse: Somebody opened the disk at the same moment; it is as it was.
    """
    _make_next(session, disk, source, size)
    with session.image(str(disk)) as image:
        old = image.id()
    removal.strip(session, str(disk), read_only=True)
    try:
        session.rbd.trash_move(session.pool, str(disk), 0)
    except rbd.ImageBusy as error:
        raise InUse(f"{disk} was opened while it was rolled back", next_step="try again") from error
    finish_swap(session, disk)  # where another one has done it, that is as good
    removal.purge(session, old)


def settle(session: Session, disk: Volume) -> None:
    """End what somebody began who died while he rolled a disk back: by finishing it, or by forgetting it."""
    new = _id(session, next_name(disk))
    if new is None:
        return
    now = _id(session, str(disk))
    if now == new:
        _settle_name(session, disk, new)
    elif now is None:
        _clear_name(session, disk, new)
        finish_swap(session, disk)
    else:
        removal.remove_named(session, next_name(disk), read_only=False)


def settle_all(session: Session) -> None:
    """End what dead processes left of all disks."""
    names = [each["name"] for each in session.rbd.list2(session.pool)]
    found = {disk_of_next(name) or volume_named(name) for name in names}
    for disk in found:
        if disk is not None and disk.kind is Kind.DISK:
            settle(session, disk)


def _make_next(session: Session, disk: Volume, source: Volume, size: int) -> None:
    new = next_name(disk)

    def clone() -> None:
        session.rbd.clone(session.pool, str(source), FROZEN, session.pool, new, features=FEATURES)

    try:
        clone()
    except rbd.ImageExists:  # so little was made of it that it cannot be opened
        removal.remove_named(session, new, read_only=False)
        clone()
    with session.image(new, read_only=False) as image:
        if image.size() < size:
            image.resize(size)


def _settle_name(session: Session, disk: Volume, id: str) -> None:
    """Take one of two names from an image: somebody died while Ceph renamed it. The directory knows which."""
    renamed = _listed_id(session, str(disk)) == id
    if not renamed:
        _clear_name(session, disk, id)
    _forget_id(session, next_name(disk) if renamed else str(disk))
    if not renamed:
        finish_swap(session, disk)


def _clear_name(session: Session, disk: Volume, new: str) -> None:
    """Finish to put the old content into the trash, where somebody died while Ceph did so."""

    def cleared() -> bool:
        return _listed_id(session, str(disk)) in (None, new)

    try:
        # Perhaps it is being done just now, and the name is the new content's in a moment.
        wait_until(cleared, deadline=_GAP, what=str(disk), next_step="")
    except DeadlineExceeded:
        _forget_id(session, str(disk))
        with suppress(rbd.ImageNotFound):
            session.rbd.trash_move(session.pool, str(disk), 0)


def _forget_id(session: Session, name: str) -> None:
    with suppress(rados.ObjectNotFound):
        session.pool.remove_object(f"{ID_OBJECT}{name}")


def _listed_id(session: Session, name: str) -> str | None:
    return next((each["id"] for each in session.rbd.list2(session.pool) if each["name"] == name), None)


def _id(session: Session, name: str) -> str | None:
    """Return Ceph's id of an image, None if none of that name can be opened."""
    try:
        with session.image(name) as image:
            return str(image.id())
    except rbd.ImageNotFound:
        return None
