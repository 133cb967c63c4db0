"""A hundred exports come and go side by side, again and again, on real tgtd processes that are killed meanwhile."""

import os
import random
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path
from signal import SIGKILL
from typing import Any
from uuid import UUID

import psutil

from bmi.drivers import Site
from bmi.drivers.target import Export, Portal
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import BmiError, TargetError
from bmi.ids import new_id
from bmi.run import run
from bmi.wait import wait_until
from tests.iscsi import make_export

THREADS = 16  # what a gateway's order taker has
_TRIES = 20  # of one call: a killer that never tires can hit each of them
_BETWEEN_KILLS = 0.2  # seconds
_FIRST_PORT = 3260


class Exports:
    """What one gateway serves, with a killer on its host."""

    def __init__(self, folder: Path, namespace: str, count: int) -> None:
        self._folder = folder
        self._namespace = namespace
        self.target = TgtTarget({}, Site(folder / "state", secrets.token_hex(4)))
        self.served: dict[UUID, tuple[Portal, Export]] = {}
        """What is wanted now."""
        self.locks: dict[UUID, threading.RLock] = {}
        self.operations = 0
        self.killed = 0
        self.problems: list[str] = []
        self._guard = threading.Lock()
        self._over = threading.Event()
        self._all = [
            (
                Portal(new_id(), IPv4Address("127.0.0.1"), _FIRST_PORT + number, namespace),
                make_export(folder, str(number)),
            )
            for number in range(count)
        ]
        self.locks = {portal.id: threading.RLock() for portal, _ in self._all}
        self.target.on_exit(self._mend)

    def run(self, rounds: int) -> None:
        """Let all exports come and go, some times."""
        killer = threading.Thread(target=self._kill, name="killer")
        killer.start()
        try:
            for _ in range(rounds):
                self._with_all(self._create)
                self._kill_one()  # the killer's clock may miss a short run
                self._with_all(self._delete)
        finally:
            self._over.set()
            killer.join()

    def leaks(self) -> list[str]:
        """Say what is left when all exports are deleted."""
        with suppress(BmiError):  # the watch over a server that was killed last may still be at work
            wait_until(lambda: not self._processes(), deadline=10, what="servers to end", next_step="-")
        known = [path.name for path in (self._folder / "state" / "target").iterdir() if path.name != "locks"]
        return [
            *(f"server {portal}" for portal in self.target.portals()),
            *(f"process {process.pid}" for process in self._processes()),
            *(f"file {name}" for name in known),
        ]

    def close(self) -> None:
        """End whatever is left."""
        for portal in self.target.portals():
            self.target.stop(portal)
        self.target.close()

    def _with_all(self, step: Callable[[tuple[Portal, Export]], None]) -> None:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(step, self._all))

    def _create(self, pair: tuple[Portal, Export]) -> None:
        portal, export = pair
        with self.locks[portal.id]:
            self.served[portal.id] = pair
            self._persistently(lambda: self.target.serve(portal, [export]), f"{portal} is served")

    def _delete(self, pair: tuple[Portal, Export]) -> None:
        portal, export = pair
        with self.locks[portal.id]:
            del self.served[portal.id]
            self._persistently(
                lambda: self.target.remove(portal.id, export.iqn), f"{portal} loses its export"
            )
            self._persistently(lambda: self.target.stop(portal.id), f"{portal} is stopped")

    def _mend(self, portal: UUID) -> None:
        """Start a server again that was killed, as the service does."""
        with self.locks[portal]:
            if pair := self.served.get(portal):
                self._persistently(lambda: self.target.serve(pair[0], [pair[1]]), f"{pair[0]} is mended")

    def _persistently(self, do: Any, what: str) -> None:
        """Try as an operation's step does."""
        for attempt in range(1, _TRIES + 1):
            try:
                do()
            except TargetError as error:
                if attempt == _TRIES:
                    self.problems.append(f"{what}: {error}")
            else:
                break
        with self._guard:
            self.operations += 1

    def _kill(self) -> None:
        while not self._over.wait(_BETWEEN_KILLS):
            self._kill_one()

    def _kill_one(self) -> None:
        if found := self._processes():
            with suppress(psutil.Error):
                random.choice(found).send_signal(SIGKILL)
                with self._guard:
                    self.killed += 1

    def _processes(self) -> list[psutil.Process]:
        found = []
        for process in psutil.process_iter(["name"]):
            with suppress(psutil.Error):
                if process.info["name"] == "tgtd" and str(self._folder) in process.cwd():
                    found.append(process)
        return found


@contextmanager
def host() -> Iterator[str]:
    """Give a network namespace in which every port is free."""
    name = f"bmit-{secrets.token_hex(4)}"
    run(["ip", "netns", "add", name])
    try:
        run(["ip", "link", "set", "lo", "up"], namespace=name)
        yield name
    finally:
        run(["ip", "netns", "delete", name])


def stress_targets(count: int, rounds: int) -> dict[str, Any]:
    """Do it, and tell what came of it.

    Args:
        count: How many exports there are at a time.
        rounds: How often all of them come and go.
    """
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="bmi-stress-") as folder, host() as namespace:
        exports = Exports(Path(folder), namespace, count)
        try:
            exports.run(rounds)
            leaks = exports.leaks()
        finally:
            exports.close()
    left = [name for name in os.listdir("/run/netns") if name == namespace]
    return {
        "stress": "targets",
        "operations": exports.operations,
        "failures_injected": exports.killed,
        "leaks": len(leaks) + len(left),
        "left": [*leaks, *left],
        "problems": exports.problems,
        "seconds": round(time.monotonic() - begun, 1),
    }
