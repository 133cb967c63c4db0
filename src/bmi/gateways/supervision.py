"""Watches over this gateway's tgtd and dnsmasq, whoever started them.

One that ended although nobody asked it to is started again at once, and filled from the database. Where that fails
it is tried again, after pauses that double up to half a minute; the same pauses keep a daemon that dies again and
again from keeping the host busy. One that runs and does not answer for ten seconds is ended, and then treated like
any other that ended; its driver knows how it is asked.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.events import record
from bmi.gateways.presence import logged
from bmi.parts import Parts

log = logging.getLogger(__name__)

FIRST_PAUSE = 0.5  # seconds before the second try; doubled before each further one
LONGEST_PAUSE = 30.0  # seconds
ROUND = 5.0  # seconds between two looks whether all daemons answer

_CALM = 60.0  # seconds for which a daemon has to live to be started at once when it ends again
_THREADS = 16  # daemons that are started side by side, and as many that are asked


class Daemon(StrEnum):
    """What is watched over."""

    TGTD = "tgtd"
    """Of one boot record."""
    DNSMASQ = "dnsmasq"
    """Of one network."""


@dataclass
class _Case:
    """A daemon that ended, and what is done about it."""

    ended_at: float
    due_at: float | None
    """When it is tried next; None while somebody tries, and once it runs."""
    pause: float
    """Seconds before the try after that."""
    mended_at: float | None = None
    """When it last came back. Times are the monotonic clock's."""

    def again(self) -> None:
        """Plan one more try, not at once."""
        self.due_at = time.monotonic() + self.pause
        self.pause = min(2 * self.pause, LONGEST_PAUSE)

    def is_over(self) -> bool:
        """Say whether it has been well for so long that the next end is a new case."""
        return (
            self.due_at is None and self.mended_at is not None and time.monotonic() - self.mended_at > _CALM
        )


class Supervisor:
    """Two threads: one starts again what ended, the other asks whether what runs answers."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._here = parts.gateway
        self._cases: dict[tuple[Daemon, UUID], _Case] = {}
        self._changed = threading.Condition()
        """Held to use the cases; told when one is due earlier than known."""
        self._stop = threading.Event()
        self._menders = ThreadPoolExecutor(_THREADS, thread_name_prefix="supervise")
        self._askers = ThreadPoolExecutor(_THREADS, thread_name_prefix="liveness")
        self._threads = [
            threading.Thread(target=self._mend_all, name="supervise", daemon=True),
            threading.Thread(target=self._ask_all, name="liveness", daemon=True),
        ]
        self._here.target.on_exit(lambda portal: self._ended(Daemon.TGTD, portal))
        self._here.dnsmasq.on_exit(lambda network: self._ended(Daemon.DNSMASQ, network))

    def start(self) -> None:
        """Begin to watch over what runs."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Watch no more; what runs goes on."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        for pool in (self._menders, self._askers):
            pool.shutdown(cancel_futures=True)

    # --- what ended ----------------------------------------------------------------------------------------

    def _ended(self, daemon: Daemon, id: UUID) -> None:
        log.warning("%s of %s ended unexpectedly, starting it again", daemon, id)
        with self._changed:
            now = time.monotonic()
            case = self._cases.get((daemon, id))
            if case is None or case.is_over():
                self._cases[daemon, id] = _Case(ended_at=now, due_at=now, pause=FIRST_PAUSE)
            elif case.due_at is None:
                case.ended_at = now
                case.again()
            self._changed.notify_all()

    def _mend_all(self) -> None:
        while not self._stop.is_set():
            with self._changed:
                now = time.monotonic()
                self._cases = {key: case for key, case in self._cases.items() if not case.is_over()}
                due = [
                    key for key, case in self._cases.items() if case.due_at is not None and case.due_at <= now
                ]
                for key in due:
                    self._cases[key].due_at = None
                if not due:
                    waiting = [case.due_at - now for case in self._cases.values() if case.due_at is not None]
                    self._changed.wait(min(waiting, default=None))
            for key in due:
                self._menders.submit(self._mend, *key)

    def _mend(self, daemon: Daemon, id: UUID) -> None:
        """Make a daemon equal to the database: it runs then, or nobody needs it any more."""
        apply: Callable[[Parts, UUID], object] = (
            boot.apply_export if daemon is Daemon.TGTD else boot.apply_network
        )
        done = logged(f"{daemon} of {id}", apply, self._parts, id)
        with self._changed:
            case = self._cases[daemon, id]
            seconds = time.monotonic() - case.ended_at
            if done:
                case.mended_at = time.monotonic()
            elif case.due_at is None:
                case.again()
                self._changed.notify_all()
        if done:
            log.warning("%s of %s is as it should be %.1f s after it ended", daemon, id, seconds)
            if daemon is Daemon.TGTD:
                logged("timeline", self._tell, id, seconds)

    def _tell(self, id: UUID, seconds: float) -> None:
        """Write on a node's timeline that its disk was away."""
        with self._parts.db.write() as session:
            row = session.get(Boot, id)
            if row is not None and row.exported:
                words = f"the tgtd of its disk ended, and serves again {seconds:.1f} s later"
                record(session, "export.restarted", words, node=row.node_id, project=row.disk.project_id)

    # --- what hangs ----------------------------------------------------------------------------------------

    def _ask_all(self) -> None:
        while not self._stop.wait(ROUND):
            logged("liveness", self._ask)

    def _ask(self) -> None:
        """Have every daemon ended that does not answer; their exits are told to this supervisor."""
        here = self._here
        asked = [
            self._askers.submit(logged, f"liveness of tgtd {id}", here.target.end_if_hung, id)
            for id in here.target.portals()
        ]
        asked += [
            self._askers.submit(logged, f"liveness of dnsmasq {leg.network}", here.dnsmasq.end_if_hung, leg)
            for leg in list(here.known_legs.values())
        ]
        for each in asked:
            each.result()
