"""The one proxy that makes drivers fail, hang, lie and die: the laboratory, the model and the stress all use it."""

import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from bmi import errors
from bmi.drivers import Outcome
from bmi.drivers.leg import Leg
from bmi.drivers.storage import VolumeInfo
from bmi.drivers.target import Removal
from bmi.errors import BmiError


class Fault(StrEnum):
    """What a call does instead of what it should."""

    FAILS = "fails"
    """It raises what may pass; nothing was done."""
    FAILS_FOR_GOOD = "fails-for-good"
    """It raises what does not pass; nothing was done."""
    LIES_DONE = "lies-done"
    """It says that it was done, and it was not."""
    LIES_FAILED = "lies-failed"
    """It says that it failed for good, and it was done."""
    HANGS = "hangs"
    """It raises the driver's time-out; what was asked for happens after the operation has ended."""
    DIES = "dies"
    """The process is killed before the call has an effect."""
    DIES_AFTER = "dies-after"
    """The process is killed when the call has had its effect."""
    CANCELLED = "cancelled"
    """Somebody cancels the operation while the call is made; the call itself is well."""

    @property
    def deadly(self) -> bool:
        """Whether the process ends."""
        return self in (Fault.DIES, Fault.DIES_AFTER)


VERBS: dict[str, dict[str, tuple[str, ...]]] = {
    "storage": {
        "changes": (
            "import_image",
            "clone",
            "snapshot",
            "copy",
            "adopt",
            "flatten",
            "roll_back",
            "grow",
            "fence",
            "write_seed",
            "remove",
        ),
        "reads": ("export_image", "depth", "usage", "find", "volumes", "backing", "capacity"),
    },
    "target": {"changes": ("serve", "remove", "stop"), "reads": ("exports", "sessions", "portals")},
    "switch": {"changes": ("configure",), "reads": ("port", "ports", "heard_at")},
    "power": {
        "changes": ("on", "off", "boot_from", "reset_boot"),
        "reads": ("state", "boots_from", "media"),
    },
    "leg": {"changes": ("up", "down"), "reads": ("legs",)},
    "dnsmasq": {"changes": ("serve", "stop"), "reads": ("running", "answers")},
    "node_http": {"changes": ("serve", "stop"), "reads": ("serving",)},
}
"""The calls of each family that can go wrong. Reading has no effect, so it cannot lie about one."""

DATABASE = "database"
ENGINE = "engine"
"""Families of the points between calls: commits of our own tables, and of the engine's."""

_PASSES: dict[str, type[BmiError]] = {
    "storage": errors.StorageUnreachable,
    "target": errors.TargetError,
    "switch": errors.SwitchError,
    "power": errors.BmcUnreachable,
    "leg": errors.LegError,
    "dnsmasq": errors.BootServiceError,
    "node_http": errors.BootServiceError,
}
_STAYS: dict[str, type[BmiError]] = {
    "storage": errors.StorageError,
    "target": errors.PortTaken,
    "switch": errors.SwitchPortUnknown,
    "power": errors.BmcRefused,
    "leg": errors.CommandFailed,
    "dnsmasq": errors.PortTaken,
    "node_http": errors.PortTaken,
}


def possible(family: str, verb: str) -> tuple[Fault, ...]:
    """Return the faults that a call can have.

    Who dies while he reads leaves what he left when he died after the call or the commit before.
    """
    if family in (DATABASE, ENGINE):
        return (Fault.DIES,)
    reading = (Fault.FAILS, Fault.FAILS_FOR_GOOD)
    return tuple(Fault) if verb in VERBS[family]["changes"] else reading


@dataclass(frozen=True)
class Point:
    """One call of an operation, or one commit."""

    family: str
    verb: str
    number: int
    """How many calls of that kind the operation made until then, this one included."""
    step: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.family}.{self.verb} {self.number}"


class _Thread(threading.local):
    carrying = False
    step = ""


class Faults:
    """Decides at each call what goes wrong, and remembers what was called."""

    def __init__(self, choose: Callable[[Point], Fault | None] = lambda point: None) -> None:
        """Say what goes wrong where.

        Args:
            choose: Asked at each call that counts.
        """
        self.choose = choose
        self.armed = False
        """Whether calls count at all."""
        self.anywhere = False
        """Whether calls count on every thread, not only on those that carry operations out."""
        self.cancel: Callable[[], None] = lambda: None
        """What `cancelled` does."""
        self.here = _Thread()
        self.seen: list[Point] = []
        self.injected: list[tuple[Point, Fault]] = []
        self._late: list[Callable[[], object]] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._guard = threading.Lock()

    def begin(self) -> None:
        """Count from now on."""
        with self._guard:
            self._counts.clear()
            self.seen.clear()
            self.armed = True

    def around(self, driver: Any, family: str) -> Any:
        """Return the driver with its faults."""
        return Faulty(driver, family, self)

    def call(self, family: str, verb: str, do: Callable[[], Any], want: tuple[Any, ...]) -> Any:
        """Make a call, with what goes wrong with it.

        Args:
            family: The driver's family.
            verb: The verb.
            do: Makes the call.
            want: What the call was given.
        """
        if not self.armed or not (self.anywhere or self.here.carrying):
            return do()
        point, fault = self._next(family, verb)
        match fault:
            case None:
                return do()
            case Fault.DIES:
                die()
            case Fault.DIES_AFTER:
                do()
                die()
            case Fault.FAILS:
                raise _PASSES[family](f"{point} fails", next_step="it passes")
            case Fault.FAILS_FOR_GOOD:
                raise _STAYS[family](f"{point} fails for good", next_step="take the fault away")
            case Fault.LIES_FAILED:
                do()
                raise _STAYS[family](f"{point} says that it failed", next_step="take the fault away")
            case Fault.HANGS:
                with self._guard:
                    self._late.append(do)
                raise errors.DeadlineExceeded(f"{point} hangs", next_step="look at what it is waiting for")
            case Fault.LIES_DONE:
                return _as_if_done(family, verb, want)
            case Fault.CANCELLED:
                self.cancel()
                return do()
        return None

    def commit(self, family: str) -> None:
        """Count a commit that is about to be made."""
        if self.armed and self._next(family, "commit")[1]:
            die()

    def land(self) -> int:
        """Let what hung have its effect now, and say how many calls did."""
        with self._guard:
            late, self._late = self._late, []
        for do in late:
            with suppress(BmiError):  # the caller has long gone
                do()
        return len(late)

    def _next(self, family: str, verb: str) -> tuple[Point, Fault | None]:
        with self._guard:
            self._counts[family, verb] += 1
            point = Point(family, verb, self._counts[family, verb], self.here.step)
            self.seen.append(point)
            fault = self.choose(point)
            if fault is not None:
                self.injected.append((point, fault))
            return point, fault


class Faulty:
    """A driver of which some calls go wrong."""

    def __init__(self, driver: Any, family: str, faults: Faults) -> None:
        self._driver = driver
        self._family = family
        self._faults = faults

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._driver, name)
        if name not in VERBS[self._family]["changes"] + VERBS[self._family]["reads"]:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._faults.call(self._family, name, lambda: found(*args, **kwargs), args)

        return call


def die() -> None:
    """End this process as a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def _as_if_done(family: str, verb: str, want: tuple[Any, ...]) -> Any:
    match family, verb:
        case "power", _:
            return None
        case "target", "remove":
            return Removal(Outcome.DONE)
        case "leg", "up":
            network, vlan, address = want[:3]
            return Leg(network, vlan, address, f"bmi-{network.hex}", "eth0")
        case "storage", "fence":
            return ()
        case "storage", "import_image" | "adopt":
            from bmi.drivers.storage import Kind, Volume

            return VolumeInfo(Volume(Kind.IMAGE, want[0]), size=1 << 16)
    return Outcome.DONE
