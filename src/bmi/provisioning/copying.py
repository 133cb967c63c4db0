"""Tells how far a long copy is, without making it slower."""

import time

from bmi.drivers.storage import Progress
from bmi.provisioning.engine import Run

_PAUSE = 0.25  # seconds between two notes; storage tells of every few MiB


def telling(run: Run, step: str) -> Progress:
    """Return what the storage tells its progress to, for a step of an operation.

    It ends the copy when the operation is to be cancelled.
    """
    told = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal told
        if done < total and time.monotonic() - told < _PAUSE:
            return
        told = time.monotonic()
        run.stop_if_cancelled()
        run.progress(step, f"{done >> 20} of {total >> 20} MiB", done / total)

    return tell
