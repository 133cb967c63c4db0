"""Waits for a real condition, with a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

from bmi.errors import DeadlineExceeded

T = TypeVar("T")

POLL = 0.02  # seconds between two looks; short against anything a person notices


def wait_until(
    condition: Callable[[], T | None], *, deadline: float, what: str, next_step: str, poll: float = POLL
) -> T:
    """Look at a condition until it is true, and return what it returned.

    Args:
        condition: Called again and again; anything true ends the wait.
        deadline: Seconds to wait at the most.
        what: What is waited for, as in "dnsmasq to answer"; stands in the error.
        next_step: What to do when it does not happen; stands in the error.
        poll: Seconds between two looks.

    Raises:
        DeadlineExceeded: It did not become true in time.
    """
    end = time.monotonic() + deadline
    while True:
        if found := condition():
            return found
        if time.monotonic() >= end:
            raise DeadlineExceeded(f"waited {deadline:g} s for {what}", next_step=next_step)
        time.sleep(poll)
