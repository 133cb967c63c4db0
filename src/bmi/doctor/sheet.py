"""What the doctor writes down, and how he looks at many things in a bounded time."""

import logging
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bmi.api.doctor import Family, Finding, Inventory
from bmi.doctor.codes import Code, finding
from bmi.errors import BmiError
from bmi.problems import problem

log = logging.getLogger(__name__)


def key(found: Finding) -> tuple[str, Family, str]:
    """Return what two findings have in common that are about the same."""
    return found.code, found.family, found.thing


class Sheet:
    """Collects findings and counts, from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._findings: dict[tuple[str, Family, str], Finding] = {}
        self._counts: Counter[str] = Counter()

    def note(
        self,
        code: Code,
        thing: str,
        message: str,
        *,
        family: Family | None = None,
        next_step: str | None = None,
    ) -> None:
        """Write a finding down; the same thing counts once, whoever finds it."""
        self.add(finding(code, thing, message, family=family, next_step=next_step))

    def unreadable(self, family: Family, thing: str, error: Exception) -> None:
        """Write down that something could not be looked at."""
        found = problem(error)
        message = f"cannot be looked at: {found.detail}"
        self.note(Code.UNREADABLE, thing, message, family=family, next_step=found.next_step)

    def add(self, found: Finding) -> None:
        """Write down a finding that somebody else made."""
        with self._lock:
            self._findings.setdefault(key(found), found)

    def count(self, name: str, number: int) -> None:
        """Add to a number of the inventory."""
        with self._lock:
            self._counts[name] += number

    @property
    def findings(self) -> list[Finding]:
        """What was found, errors first."""
        with self._lock:
            found = list(self._findings.values())
        return sorted(found, key=lambda one: (one.severity, one.family, one.code, one.thing))

    @property
    def inventory(self) -> Inventory:
        """What was counted."""
        with self._lock:
            return Inventory.model_validate(dict.fromkeys(Inventory.model_fields, 0) | self._counts)


@dataclass(frozen=True)
class Check:
    """Something to look at."""

    family: Family
    thing: str
    look: Callable[[Sheet], None]
    late: Code = Code.UNREADABLE
    """What it means when it takes too long."""


def carry_out(sheet: Sheet, checks: Iterable[Check], *, deadline: float, width: int = 16) -> None:
    """Look at things side by side.

    What fails or takes too long is a finding, and does not keep the rest from being looked at.

    Args:
        sheet: Where it is written down.
        checks: What to look at.
        deadline: Seconds for all of it.
        width: How many at a time.
    """
    waiting: queue.SimpleQueue[Check] = queue.SimpleQueue()
    open_checks = list(checks)
    for check in open_checks:
        waiting.put(check)
    end = time.monotonic() + deadline
    lock, done = threading.Condition(), set[int]()

    def work() -> None:
        while time.monotonic() < end:
            try:
                check = waiting.get_nowait()
            except queue.Empty:
                return
            _carry_out(sheet, check)
            with lock:
                done.add(id(check))
                lock.notify_all()

    # Not a pool: one that does not come back must not keep the process from ending.
    for number in range(min(width, len(open_checks))):
        threading.Thread(target=work, name=f"doctor-{number}", daemon=True).start()
    with lock:
        lock.wait_for(lambda: len(done) == len(open_checks), timeout=max(0.0, end - time.monotonic()))
        late = [check for check in open_checks if id(check) not in done]
    for check in late:
        message = f"did not answer within {deadline:g} s"
        sheet.note(check.late, check.thing, message, family=check.family)


def _carry_out(sheet: Sheet, check: Check) -> None:
    try:
        check.look(sheet)
    except Exception as error:
        if not isinstance(error, BmiError):
            log.exception("the doctor, looking at %s", check.thing)
        sheet.unreadable(check.family, check.thing, error)
