"""What every benchmark prints: one JSON object a line."""

import json
import statistics
from collections.abc import Sequence


def report(what: str, values: Sequence[float], unit: str) -> None:
    """Print the median of some values, and the largest."""
    emit(what, statistics.median(values), unit, max=round(max(values), 4), samples=len(values))


def emit(what: str, value: float, unit: str, **more: float) -> None:
    print(json.dumps({"measurement": what, "value": round(value, 4), "unit": unit, **more}), flush=True)
