"""How much room the pool has, as far as the cluster says."""

import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass

from bmi.drivers.storage.rbd.failures import MAKE_ROOM
from bmi.drivers.storage.rbd.options import RbdOptions
from bmi.drivers.storage.rbd.session import Session
from bmi.errors import StorageFull

_FRESH = 1.0  # seconds; the cluster's own figures are no newer than that
_OLDEST = 30.0  # seconds for which an answer is good where there is much room
_FILLS = 4 << 30  # bytes a second; no more than that is written to a pool, whoever writes


@dataclass(frozen=True)
class Room:
    """Room in the pool, in bytes."""

    total: int
    free: int
    """What may be used, the reserve left out."""


class Gauge:
    """Asks the cluster for the pool's room, and remembers the answer for a moment."""

    def __init__(self, options: RbdOptions) -> None:
        self._options = options
        self._guard = threading.Lock()
        self._asked: Future[Room | None] | None = None
        """What somebody waits for the cluster to say just now."""
        self._read: tuple[float, Room | None] | None = None

    def room(self, session: Session) -> Room | None:
        """Return the pool's room as the cluster has it now, or None if the cluster does not say.

        It needs a manager (ceph-mgr) for that. A quota is room that others cannot take; without one the pool
        shares what the cluster has left.
        """
        pools = session.mon("df", detail="detail")["pools"]
        stats = next((each["stats"] for each in pools if each["name"] == self._options.pool), None)
        room = None
        if stats is not None and (stats["max_avail"] or stats["stored"]):
            used, free, quota = stats["stored"], stats["max_avail"], stats["quota_bytes"]
            if quota:
                free = min(free, max(0, quota - used))
            room = Room(used + free, max(0, free - self._options.reserve))
        self._read = (time.monotonic(), room)
        return room

    def require(self, session: Session, needed: int, failure: str) -> None:
        """Make sure that there is room.

        Args:
            session: The session.
            needed: Bytes.
            failure: What fails without, as in `disk-1 could not be made`.

        Raises:
            StorageFull: There is not enough.
        """
        room = self._read[1] if self._read and _good(self._read, needed) else self._ask(session)
        if room and room.free <= needed:
            takes = f"it takes {needed} bytes, and " if needed else ""
            reserve = self._options.reserve
            raise StorageFull(
                f"{failure}: {takes}pool {self._options.pool} has {room.free} bytes free "
                f"beside {reserve} in reserve",
                next_step=MAKE_ROOM,
            )

    def _ask(self, session: Session) -> Room | None:
        """Ask the cluster, or wait with another thread that asks already: for its answer, or for its error."""
        with self._guard:
            mine, asked = self._asked is None, self._asked or Future()
            self._asked = asked
        if not mine:
            return asked.result()
        try:
            asked.set_result(self.room(session))
        except BaseException as error:
            asked.set_exception(error)
        finally:
            with self._guard:
                self._asked = None
        return asked.result()


def _good(read: tuple[float, Room | None], needed: int) -> bool:
    """Say whether an answer need not be asked for again: the room that it tells of cannot have gone since."""
    when, room = read
    age = time.monotonic() - when
    if room is None or room.free - needed <= age * _FILLS:
        return age <= _FRESH
    return age <= _OLDEST
