"""Keeps two clients from removing the same image at once: librbd may leave one of them waiting for ever.

It does when the one has just removed what the other is about to lock for writing. Who removes an image for good
claims it first. The claim is a lock of the OSDs' class `lock` on the object that holds the trash, and ends by
itself some seconds after its holder has died. While a removal takes longer than that, the image is open, which can
be seen.
"""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from uuid import uuid4

from bmi.drivers.storage.rbd import header
from bmi.drivers.storage.rbd.bindings import rados
from bmi.drivers.storage.rbd.session import Session
from bmi.errors import DeadlineExceeded
from bmi.wait import wait_until

_OBJECT = "rbd_trash"
_NAMES = 1024  # locks; Ceph never forgets the name of one, so that images share them
HELD = 5
"""Seconds that a claim lasts; far longer than from the claim to the opened image."""
_PATIENCE = 3.0 * HELD  # seconds
_POLL = 0.05  # seconds


@contextmanager
def claimed(session: Session, id: str, *, fresh: bool = False) -> Iterator[bool]:
    """Keep others from removing an image meanwhile; wait for one who is about it.

    Args:
        session: The session.
        id: Ceph's id of the image, which is in the trash.
        fresh: Whether the caller has just put it there: then nobody's claim on it can have ended by itself.

    Yields:
        Whether it is claimed; if not, another one is still about it.
    """
    name, cookie = lock_of(id), uuid4().hex

    def taken() -> bool:
        try:
            session.pool.lock_exclusive(_OBJECT, name, cookie, desc=id, duration=HELD)
        except rados.ObjectBusy:
            return False
        return True

    waited = False
    try:
        if not taken():
            waited = True
            wait_until(taken, deadline=_PATIENCE, what="", next_step="", poll=_POLL)
    except DeadlineExceeded:
        yield False
        return
    try:
        found = None if fresh and not waited else header.read_by_id(session, id)
        yield found is None or not header.watched(session, found)
    finally:
        with suppress(rados.Error):  # it has ended by itself, or will
            session.pool.unlock(_OBJECT, name, cookie)


def lock_of(id: str) -> str:
    """Return the name of the lock for an image."""
    return f"bmi removal {zlib.crc32(id.encode()) % _NAMES}"
