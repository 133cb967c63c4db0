"""Signals between the processes of an installation: "look there", never what is there.

A signal only makes somebody look at the database earlier than he would anyway. So one that is lost costs a
second and nothing else.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy.orm import Session

from bmi.db import Db
from bmi.notices import Listener, Notice

log = logging.getLogger(__name__)

Call = Callable[[str | None], None]

LOST = 1.0  # seconds after which one looks although no signal came


class Signals:
    """Sends and receives signals; one object for each process."""

    def __init__(self, db: Db) -> None:
        self._db = db
        self._guard = threading.Lock()  # of the next two
        self._calls: defaultdict[str, list[Call]] = defaultdict(list)
        self._expected: defaultdict[tuple[str, str], list[threading.Event]] = defaultdict(list)
        self._listener: Listener | None = None

    def send(self, session: Session, channel: str, payload: str = "") -> None:
        """Send a signal when a transaction is committed, and none if it is rolled back.

        Args:
            session: The transaction.
            channel: Which kind of signal, a word.
            payload: Where to look, such as an id.
        """
        self._db.notify(session, channel, payload)

    def on(self, channel: str, call: Call) -> None:
        """Call something with the payload of each signal of a channel, from a thread of its own.

        The payload is None where signals may have been missed: then everything has to be looked at.
        """
        with self._guard:
            self._calls[channel].append(call)

    @contextmanager
    def expected(self, channel: str, payload: str) -> Iterator[threading.Event]:
        """Give an event that is set when a signal comes."""
        event, key = threading.Event(), (channel, payload)
        with self._guard:
            self._expected[key].append(event)
        try:
            yield event
        finally:
            with self._guard:
                self._expected[key].remove(event)
                if not self._expected[key]:
                    del self._expected[key]

    def start(self, *channels: str) -> None:
        """Begin to receive signals of these channels."""
        self._listener = Listener(self._db, channels, self._heard)

    def close(self) -> None:
        """Receive no signals any more."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _heard(self, notice: Notice) -> None:
        channel, payload = notice.channel, notice.payload
        with self._guard:
            calls = list(self._calls[channel])
            events = [
                event
                for (where, what), waiting in self._expected.items()
                if where == channel and payload in (None, what)
                for event in waiting
            ]
        for event in events:
            event.set()
        for call in calls:
            try:
                call(payload)
            except Exception:
                log.exception("signal %s %s", channel, payload)
