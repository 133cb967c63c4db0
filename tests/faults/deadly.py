"""A `bmi serve` of which one call goes wrong, and that writes down its calls: `python -m tests.faults.deadly`.

It is well until it gets SIGUSR1; from then on it counts.
"""

import json
import signal
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bmi import server
from bmi.provisioning import engine
from bmi.serve import serve
from tests.faults.faulty import Fault, Faults, Point
from tests.faults.house import faulty_load, watch_commits, watched


def main(config: Path, calls: Path, where: dict[str, Any] | None, fault: str) -> None:
    """Serve until a signal, or until the call at which this process dies.

    Args:
        config: The service's settings.
        calls: File that gets a line for each call of an operation.
        where: The point at which something goes wrong; nothing does if None.
        fault: What goes wrong.
    """

    def choose(point: Point) -> Fault | None:
        with calls.open("a") as file:
            print(json.dumps(asdict(point)), file=file)
        return Fault(fault) if where is not None and point == Point(**where) else None

    def arm(*_: object) -> None:
        faults.begin()
        calls.touch()

    faults = Faults(choose)
    signal.signal(signal.SIGUSR1, arm)
    watch_commits(faults)
    server.load = faulty_load(faults)  # type: ignore[attr-defined]
    for name, family in (("Dnsmasq", "dnsmasq"), ("NodeHttp", "node_http")):
        setattr(server, name, _faulty(getattr(server, name), family, faults))
    engine.Journal = watched(faults)  # type: ignore[misc]
    serve(config)


def _faulty(made: Callable[..., Any], family: str, faults: Faults) -> Callable[..., Any]:
    return lambda *args, **kwargs: faults.around(made(*args, **kwargs), family)


if __name__ == "__main__":
    _, config, calls, where, fault = sys.argv
    main(Path(config), Path(calls), json.loads(where), fault)
