"""Notices: what one process tells the others, through the database, the moment it is committed.

They only wake up: what there is to do stands in tables. So whoever listens looks there once it is connected,
and again after every connection that was lost.
"""

import contextlib
import logging
import os
import queue
import select
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType

import psycopg
from psycopg import sql

from bmi.db import Db
from bmi.errors import DatabaseUnavailable

log = logging.getLogger(__name__)

_FIRST_PAUSE = 0.1  # seconds before the second try to connect; doubled up to the longest
_LONGEST_PAUSE = 2.0


@dataclass(frozen=True)
class Notice:
    """Something happened."""

    channel: str
    payload: str | None
    """What `Db.notify` was given; None if notices may have been missed, so that everything has to be looked at."""


class Listener:
    """Waits for notices in a thread of its own, and comes back by itself when the connection is lost.

    The first notice of each channel has no payload. It comes once nothing more can be missed.
    """

    def __init__(self, db: Db, channels: Sequence[str], call: Callable[[Notice], None] | None = None) -> None:
        """Begin to listen.

        Args:
            db: The database.
            channels: What to listen to.
            call: Called with each notice, from the listener's thread; it should be quick. What it raises is
                logged.
        """
        self._db = db
        self._channels = tuple(channels)
        self._call = call
        self._event = threading.Event()
        self._closing = threading.Event()
        self._local: queue.SimpleQueue[Notice | None] = queue.SimpleQueue()
        self._woken, self._wake = os.pipe()
        if db.sqlite:
            db.subscribers[self] = self._subscribed
        self._thread = threading.Thread(
            target=self._run_local if db.sqlite else self._run, name="notices", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> "Listener":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def wait(self, timeout: float) -> bool:
        """Wait for a notice that came since the last call, and say whether there is one.

        Args:
            timeout: Seconds to wait at the most.
        """
        came = self._event.wait(timeout)
        self._event.clear()
        return came

    def close(self) -> None:
        """Stop listening."""
        if self._closing.is_set():
            return
        self._closing.set()
        self._db.subscribers.pop(self, None)
        self._local.put(None)
        os.write(self._wake, b"x")
        self._thread.join()
        os.close(self._wake)
        os.close(self._woken)

    def _subscribed(self, channel: str, payload: str) -> None:
        if channel in self._channels:
            self._local.put(Notice(channel, payload))

    def _run_local(self) -> None:
        self._hand_on_all()
        while (notice := self._local.get()) is not None:
            self._hand_on(notice)

    def _run(self) -> None:
        pause = _FIRST_PAUSE
        while not self._closing.is_set():
            try:
                with contextlib.closing(self._db.detached()) as connection:
                    self._listen(connection)
                    pause = _FIRST_PAUSE
                    self._receive(connection)
            except (DatabaseUnavailable, psycopg.Error) as error:
                if pause == _FIRST_PAUSE:
                    log.warning("notices are missed until the database is back: %s", error)
            self._ended_within(pause)
            pause = min(2 * pause, _LONGEST_PAUSE)

    def _listen(self, connection: psycopg.Connection) -> None:
        for channel in self._channels:
            connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
        self._hand_on_all()

    def _receive(self, connection: psycopg.Connection) -> None:
        while True:
            for notice in connection.notifies(timeout=0):
                self._hand_on(Notice(notice.channel, notice.payload))
            if self._ended_within(None, connection.fileno()):
                return

    def _ended_within(self, seconds: float | None, *others: int) -> bool:
        """Wait until `close` is called or another descriptor can be read; say whether it was `close`."""
        poll = select.poll()
        for descriptor in (self._woken, *others):
            poll.register(descriptor, select.POLLIN)
        poll.poll(None if seconds is None else seconds * 1000)
        return self._closing.is_set()

    def _hand_on_all(self) -> None:
        for channel in self._channels:
            self._hand_on(Notice(channel, None))

    def _hand_on(self, notice: Notice) -> None:
        self._event.set()
        if self._call is None:
            return
        try:
            self._call(notice)
        except Exception:
            log.exception("a notice on %s could not be handled", notice.channel)
