"""Notices that a portal of the kernel's target went away, though nobody asked BMI for it.

There is no process whose end could be waited for. Somebody can still empty the kernel's target under BMI
(`targetctl clear`, `targetcli`); so the list of portals is looked at again and again, which is one folder.
"""

import threading
from collections.abc import Callable
from uuid import UUID

_PAUSE = 1.0  # seconds; nodes wait two minutes for a session to come back


class Watch:
    """Looks after the portals that are there."""

    def __init__(self, present: Callable[[], set[UUID]]) -> None:
        self._present = present
        self._guard = threading.Lock()
        self._expected = present()
        self._callbacks: list[Callable[[UUID], None]] = []
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def expect(self, portal: UUID) -> None:
        """Look after a portal from now on."""
        with self._guard:
            self._expected.add(portal)

    def forgive(self, portal: UUID) -> None:
        """Let the end of a portal surprise nobody."""
        with self._guard:
            self._expected.discard(portal)

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        """Call this with every portal that goes away."""
        with self._guard:
            self._callbacks.append(call)
            if self._thread is None:
                self._thread = threading.Thread(target=self._look_on, name="lio-watch", daemon=True)
                self._thread.start()

    def close(self) -> None:
        """Look no more, and call nobody."""
        self._closed.set()
        with self._guard:
            self._callbacks.clear()

    def _look_on(self) -> None:
        while not self._closed.wait(_PAUSE):
            with self._guard:
                gone = self._expected - self._present()
                self._expected -= gone
                callbacks = list(self._callbacks)
            for portal in gone:
                for call in callbacks:
                    call(portal)
