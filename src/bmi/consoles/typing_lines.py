"""Which request to type has a line in the audit trail: the first of somebody at a node, not every key."""

import threading
import time
from uuid import UUID

PAUSE = 600.0
"""Seconds without a key after which the next one is told of again."""

_KNOWN_MOST = 4096  # pairs that are remembered; of more the oldest is told of once too often


class TypingLines:
    """Remembers who types where, in this process."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, UUID], float] = {}
        self._guard = threading.Lock()

    def is_first(self, caller: str, node: UUID) -> bool:
        """Say whether somebody begins to type on a node's console."""
        now = time.monotonic()
        with self._guard:
            before = self._last.pop((caller, node), None)
            self._last[caller, node] = now
            while len(self._last) > _KNOWN_MOST:
                self._last.pop(next(iter(self._last)))
        return before is None or now - before > PAUSE
