"""How volumes go: at once, or into Ceph's trash for as long as clones of them live.

An image that has clones cannot be removed, but it can be put into the trash and be forgotten. Ceph keeps its
content as long as a clone needs it. Whoever removes the last clone removes it for good.
"""

import errno
from contextlib import suppress
from typing import Any

from bmi.drivers.storage import Kind, Volume
from bmi.drivers.storage.rbd import header
from bmi.drivers.storage.rbd.bindings import rbd
from bmi.drivers.storage.rbd.claims import claimed
from bmi.drivers.storage.rbd.fencing import cut_off, watchers
from bmi.drivers.storage.rbd.names import is_ours
from bmi.drivers.storage.rbd.session import Session
from bmi.drivers.storage.rbd.whole import user_snapshots


def remove(session: Session, volume: Volume) -> bool:
    """Remove a volume, whole or half-made, and cut off whoever still has it open.

    Returns:
        Whether there was anything.
    """
    return remove_named(session, str(volume), read_only=volume.kind is Kind.DISK)


def remove_named(session: Session, name: str, *, read_only: bool) -> bool:
    """Remove an image of BMI's, see `remove` and `strip`.

    It goes by way of the trash, as in librbd's own `remove`. But that one opens it once more, to see who else has
    it open, and what it leaves in the trash when its caller dies is not listed there.
    """
    found = header.read(session, name)
    if found and not found.snapshots and not found.lockers and not header.watched(session, found):
        parent, cloned = found.parent, False
    else:
        parent, cloned = strip(session, name, read_only=read_only)
    try:
        if found or cloned:
            session.rbd.trash_move(session.pool, name, 0)
        else:
            session.rbd.remove(session.pool, name)
    except rbd.ImageNotFound:
        return _remove_rest(session, name)
    if found and not cloned:
        _remove_moved(session, found.id)
    purge(session, parent)
    return True


def _remove_moved(session: Session, id: str) -> None:
    """Remove for good what was moved into the trash, whoever began to use it at the last moment.

    Who sweeps the trash may be about the same image. He is waited for; if he takes long, he will end it, too.
    """
    with claimed(session, id, fresh=True) as mine, suppress(rbd.ImageNotFound):
        if not mine:
            return
        try:
            session.rbd.trash_remove(session.pool, id, True)
        except (rbd.ImageBusy, rbd.ImageHasSnapshots):
            _, cloned = strip(session, id=id, read_only=False)
            if not cloned:
                session.rbd.trash_remove(session.pool, id, True)


def _remove_rest(session: Session, name: str) -> bool:
    """Remove what somebody left of an image who died while he made or removed it.

    Returns:
        Whether there was anything, besides what waits in the trash for its clones to go.
    """
    found = False
    with suppress(rbd.ImageNotFound):
        session.rbd.remove(session.pool, name)  # what has no header
        found = True
    with suppress(rbd.ImageNotFound):
        session.rbd.trash_move(session.pool, name, 0)  # what is half in the trash
        found = True
    for entry in list(session.rbd.trash_list(session.pool)):
        if entry["name"] == name:
            found = purge(session, entry["id"]) or found
    return found


def purge(session: Session, id: str | None) -> bool:
    """Remove an image for good if it is in the trash without clones, and then its parents.

    What others than BMI put into the trash stays.

    Args:
        session: The session.
        id: Ceph's id of the image; None for none.

    Returns:
        Whether the image was removed.
    """
    removed = False
    while id is not None:
        try:
            if not is_ours(session.rbd.trash_get(session.pool, id)["name"]):
                break
            parent = _parent_of(session, id)
            with claimed(session, id) as mine:
                if not mine:
                    break  # another one is about it, and will end it
                session.rbd.trash_remove(session.pool, id, True)
        except (rbd.ImageNotFound, rbd.ImageHasSnapshots, rbd.ImageBusy):
            break  # it is not in the trash, has clones, or somebody has it open
        except rbd.OSError as error:
            if error.errno == errno.EUCLEAN:
                break  # another one is about to put it there, or died at that, see `sweeping`
            raise
        id, removed = parent, True
    return removed


def _parent_of(session: Session, id: str) -> str | None:
    if found := header.read_by_id(session, id):
        return found.parent
    try:
        with session.image(id=id) as image:
            return parent_id(image)
    except rbd.ImageNotFound:
        return None


def parent_id(image: Any) -> str | None:
    """Return Ceph's id of the image that an open image was cloned from, None if it depends on none."""
    try:
        return str(image.parent_id())
    except rbd.ImageNotFound:
        return None


def strip(
    session: Session, name: str | None = None, *, id: str | None = None, read_only: bool
) -> tuple[str | None, bool]:
    """Take an image's users and snapshots away.

    Args:
        session: The session.
        name: The image.
        id: Its id; the only way to one in the trash.
        read_only: Whether it is opened without a right to change it first, which is less work where there are
            no snapshots.

    Returns:
        Ceph's id of its parent, and whether clones hold any of its snapshots.
    """
    try:
        with session.image(name, id=id, read_only=read_only) as image:
            # Nobody may use it any more. One who died without closing it would be waited for.
            if others := watchers(session, image):
                cut_off(session, image, others)
            snapshots = user_snapshots(image)
            if not (read_only and snapshots):
                for snapshot in snapshots:
                    with suppress(rbd.ImageNotFound):
                        image.remove_snap(snapshot)
                # Those that have clones are still there, under names that Ceph gave them.
                return parent_id(image), any(True for _ in image.list_snaps())
    except rbd.ImageNotFound:
        return None, False
    return strip(session, name, id=id, read_only=False)
