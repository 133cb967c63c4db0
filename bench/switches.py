"""How long a hundred ports on four switches take: by the driver, all at once, and one by one with a session each.

make bench PART=switches

The switches are doubles behind real SSH, on this host, which take as long for each command as switches do. Absolute
times are therefore those of the latencies below; compare the two ways, and count sessions. One JSON object a line.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from bench.output import emit
from bmi.drivers import Site, load
from bmi.drivers.switch import PortVlans
from tests.switches.cisco import NxosBox
from tests.switches.server import Rack, listening

_SWITCHES = 4
_PORTS = 25  # of each
_COMMAND = 0.03  # seconds that a configuration command takes on a switch
_SLOW = {"show": 0.15, "copy": 2.0}  # and one that reads much, or writes to the flash
_SITE = Site(Path("/nonexistent"), "0badcafe")

Place = tuple[int, str]


class _Large(NxosBox):
    ports = tuple(f"Ethernet1/{number}" for number in range(1, _PORTS + 1))


def main() -> int:
    """Measure each way on the same switches, and print what they took."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        racks = [stack.enter_context(listening(_Large())) for _ in range(_SWITCHES)]
        for rack in racks:
            rack.latency, rack.slow = _COMMAND, _SLOW
        options = [
            rack.options(Path(folder) / str(number), "cisco_nxos") for number, rack in enumerate(racks)
        ]
        places = [(number, port) for port in _Large.ports for number in range(_SWITCHES)]
        together = _measured("by the driver, all at once", racks, lambda: _together(options, places))
        beside = _measured("one by one on each switch, a session each", racks, lambda: _beside(options))
        alone = _measured("one by one, a session each", racks, lambda: _alone(options, places, 103))
    emit("one by one on each switch to all at once", beside / together, "ratio")
    emit("one by one to all at once", alone / together, "ratio")
    return 0


def _together(options: Sequence[dict[str, Any]], places: Sequence[Place]) -> None:
    """Change every port, each by a thread of its own, as the workers' operations do."""
    with ExitStack() as stack:
        switches = [stack.enter_context(closing(load("switch", "netmiko", each, _SITE))) for each in options]
        with ThreadPoolExecutor(len(places)) as pool:
            list(pool.map(lambda place: switches[place[0]].configure(place[1], PortVlans(101)), places))


def _beside(options: Sequence[dict[str, Any]]) -> None:
    """Change one port of a switch after the other, and log in anew for each; the switches side by side."""
    with ThreadPoolExecutor(len(options)) as pool:
        own = [[(number, port) for port in _Large.ports] for number in range(len(options))]
        list(pool.map(lambda places: _alone(options, places, 102), own))


def _alone(options: Sequence[dict[str, Any]], places: Sequence[Place], vlan: int) -> None:
    """Change one port after the other, and log in anew for each."""
    for number, port in places:
        with closing(load("switch", "netmiko", options[number], _SITE)) as switch:
            switch.configure(port, PortVlans(vlan))


def _measured(what: str, racks: Sequence[Rack], change: Callable[[], None]) -> float:
    sessions, saves = sum(rack.sessions for rack in racks), sum(rack.box.saves for rack in racks)
    began = time.perf_counter()
    change()
    seconds = time.perf_counter() - began
    emit(what, seconds, "s", ports=_SWITCHES * _PORTS, switches=_SWITCHES)
    emit(f"{what}: sessions", sum(rack.sessions for rack in racks) - sessions, "sessions")
    emit(f"{what}: saves", sum(rack.box.saves for rack in racks) - saves, "saves")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
