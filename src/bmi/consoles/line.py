"""One node's console, held open: a thread that listens, and one that types once somebody does."""

import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from uuid import UUID

from bmi.drivers.power import Console
from bmi.errors import BmiError, ConsoleLost

log = logging.getLogger(__name__)

FIRST_PAUSE = (
    1.0  # seconds until a session that could not be had is tried again; doubled before each further try
)
LONGEST_PAUSE = 60.0  # seconds
REPLAY = 0.5
"""Seconds after the beginning of a session in which nothing is recorded: some controllers tell then what was said
before, and that may have been another tenant's system."""
BACKLOG = 256 * 1024
"""Bytes that are kept of a node while the database does not take them; the oldest go."""

_LISTEN = (
    0.25  # seconds of one wait for what the node says; so soon a session ends that nobody wants any more
)
_LEAVE = 3.0  # seconds
_CALM = 10.0  # seconds after which a session was a good one, so that the next try comes soon

Opening = Callable[[], AbstractContextManager[Console]]


class Line:
    """Listens to a node, again and again, until it is closed."""

    def __init__(self, node: UUID, claim: int, opening: Opening) -> None:
        """Begin to listen.

        Args:
            node: The node.
            claim: The claim of its session that this line has.
            opening: Opens the console.
        """
        self.node = node
        self.claim = claim
        self.watched_until = 0.0
        """Until when what the node says is stored at once, by the monotonic clock."""
        self._opening = opening
        self._guard = threading.Lock()  # of the next four
        self._said: list[tuple[UUID, bytes]] = []
        self._recording: UUID | None = None
        self._status: tuple[bool, str | None] = (False, None)
        self._told: tuple[bool, str | None] | None = None
        self._typed: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._listener = threading.Thread(target=self._repeat, name=f"console-{node}", daemon=True)
        self._listener.start()

    def record(self, recording: UUID | None) -> None:
        """Say what the node's words belong to from now on; they are let go if to nothing."""
        with self._guard:
            self._recording = recording

    def take(self) -> list[tuple[UUID, bytes]]:
        """Return what the node said since the last time, with the recordings that it belongs to."""
        with self._guard:
            said, self._said = self._said, []
            return said

    def put_back(self, said: list[tuple[UUID, bytes]]) -> None:
        """Keep what could not be stored, for the next time."""
        with self._guard:
            self._said = said + self._said
            self._bound()

    def news(self) -> tuple[bool, str | None] | None:
        """Return whether it is open, and why not, if that is to be told."""
        with self._guard:
            return self._status if self._status != self._told else None

    def told(self, status: tuple[bool, str | None]) -> None:
        """Note that this was told."""
        with self._guard:
            self._told = status

    def type(self, data: bytes) -> None:
        """Have something typed; it is lost where the session is."""
        self._typed.put(data)

    def stop(self) -> None:
        """Have it end soon."""
        self._stop.set()
        self._typed.put(None)

    def join(self) -> None:
        """Wait until the session is given back, a moment at the most: it also goes with the process."""
        self._listener.join(_LEAVE)

    def _repeat(self) -> None:
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            begun = time.monotonic()
            try:
                with self._opening() as console:
                    self._hold(console)
            except BmiError as error:
                self._tell(False, f"{error.message}; {error.next_step}")
            except Exception as error:
                log.exception("the console of node %s", self.node)
                self._tell(False, f"defect of BMI: {type(error).__name__}")
            pause = FIRST_PAUSE if time.monotonic() - begun > _CALM else min(2 * pause, LONGEST_PAUSE)
            self._stop.wait(pause)

    def _hold(self, console: Console) -> None:
        """Listen until the session is lost, or not wanted any more."""
        self._typed = queue.SimpleQueue()
        typing = threading.Thread(
            target=_type, args=(console, self._typed), name=f"typing-{self.node}", daemon=True
        )
        typing.start()
        try:
            end = time.monotonic() + REPLAY
            while (left := end - time.monotonic()) > 0:
                console.read(left)
            self._tell(True, None)
            while not self._stop.is_set():
                self._heard(console.read(_LISTEN))
        finally:
            self._typed.put(None)
            typing.join()

    def _heard(self, said: bytes) -> None:
        with self._guard:
            if not said or self._recording is None:
                return
            if self._said and self._said[-1][0] == self._recording:
                self._said[-1] = (self._recording, self._said[-1][1] + said)
            else:
                self._said.append((self._recording, said))
            self._bound()

    def _bound(self) -> None:
        """Let the oldest go where there is too much; the caller has the guard."""
        total = sum(len(piece) for _, piece in self._said)
        while total > BACKLOG:
            recording, piece = self._said.pop(0)
            total -= len(piece)
            if total < BACKLOG:
                kept = piece[total - BACKLOG :]
                self._said.insert(0, (recording, kept))
                return

    def _tell(self, is_open: bool, problem: str | None) -> None:
        with self._guard:
            if (is_open, problem) != self._status:
                log.info("the console of node %s: %s", self.node, problem or "open")
            self._status = (is_open, problem)


def _type(console: Console, typed: "queue.SimpleQueue[bytes | None]") -> None:
    """Type what comes, until None does."""
    while (data := typed.get()) is not None:
        try:
            console.write(data)
        except ConsoleLost as error:  # the listener meets it too, and begins anew
            log.info("what was typed is lost: %s", error.message)
