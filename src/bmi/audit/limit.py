"""Bounds what somebody can write into the audit trail by asking for what he does not get."""

import logging
import time
from collections import Counter
from enum import Enum, auto

log = logging.getLogger(__name__)

_UNKNOWN = "unknown callers"


class Verdict(Enum):
    """What becomes of a line."""

    WRITE = auto()
    LAST = auto()
    """It is written as the one that says that more are left out."""
    LEAVE_OUT = auto()


class Limit:
    """Counts the lines of a minute, in a process. One thread at a time."""

    MINUTE = 60.0  # seconds
    EACH = 60  # lines that one caller, or one address of unknown callers, gets in a minute
    UNKNOWN = 300  # lines that all unknown callers together get in a minute

    def __init__(self) -> None:
        self._since = time.monotonic()
        self._asked: Counter[str] = Counter()

    def take(self, who: str, *, known: bool) -> tuple[Verdict, str]:
        """Say what becomes of one more line, and whose share it is that is used up, if one is.

        Args:
            who: A caller's name, or an address of unknown ones.
            known: Whether it is a caller. There are only so many of those, but addresses without end.
        """
        if time.monotonic() - self._since > self.MINUTE:
            self._begin()
        if not known and self._asked[_UNKNOWN] > self.UNKNOWN:
            self._asked[_UNKNOWN] += 1
            return Verdict.LEAVE_OUT, _UNKNOWN  # without a count of his own, which would cost memory
        verdict = self._spend(who, self.EACH)
        if known or verdict is Verdict.LEAVE_OUT:
            return verdict, who
        together = self._spend(_UNKNOWN, self.UNKNOWN)
        return (verdict, who) if together is Verdict.WRITE else (together, _UNKNOWN)

    def _spend(self, who: str, share: int) -> Verdict:
        self._asked[who] += 1
        if self._asked[who] <= share:
            return Verdict.WRITE
        return Verdict.LAST if self._asked[who] == share + 1 else Verdict.LEAVE_OUT

    def _begin(self) -> None:
        for who, asked in self._asked.items():
            share = self.UNKNOWN if who == _UNKNOWN else self.EACH
            if asked > share:
                log.warning("%s: %d lines were left out of the audit trail", who, asked - share)
        self._since = time.monotonic()
        self._asked.clear()
