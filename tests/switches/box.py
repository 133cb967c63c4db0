"""Doubles of switches: a small state machine for each kind, without a line of the driver's.

What a port carries is computed from its settings as the vendor's manual says; commands change settings only.
"""

import re
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from bmi.drivers.switch import PortVlans

ALL = frozenset(range(1, 4095))


class Box(ABC):
    """A switch, with what all its sessions share."""

    ports: ClassVar[tuple[str, ...]]
    uplink: ClassVar[str]
    """A port that carries everything, and is none of a node's."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.vlans: set[int] = {1}
        self.saves = 0
        self.history: dict[str, list[PortVlans]] = {port: [] for port in (*self.ports, self.uplink)}
        """What each port carried, one after the other."""

    @abstractmethod
    def carried(self, port: str) -> PortVlans: ...

    @abstractmethod
    def login(self) -> "Cli": ...

    def note(self) -> None:
        for port, seen in self.history.items():
            now = self.carried(port)
            if not seen or seen[-1] != now:
                seen.append(now)


class Cli(ABC):
    """The command line of one session."""

    paging = True
    banner = ""
    secretly: Callable[[str], str] | None = None
    """What takes the next line, without an echo; None where it is a command."""

    @property
    @abstractmethod
    def prompt(self) -> str: ...

    @abstractmethod
    def do(self, line: str) -> str:
        """Carry a line out, and return what is printed. EOFError ends the session."""


Rule = tuple[str, Callable[..., str | None]]


class ModedCli(Cli):
    """A command line with modes inside each other, as most switches have it."""

    invalid = "                ^\n% Invalid input detected at '^' marker.\n"

    def __init__(self, box: Any) -> None:
        self.box = box
        self.mode: list[tuple[str, str]] = []
        """Modes and what each is about: ("config", ""), ("if", "Ethernet1/1")."""

    @abstractmethod
    def rules(self, mode: str) -> Sequence[Rule]: ...

    def do(self, line: str) -> str:
        words = " ".join(line.split())
        if not words:
            return ""
        # In a mode inside another one, the outer one's commands lead there.
        for depth in range(len(self.mode), 0 if self.mode else -1, -1):
            name = self.mode[depth - 1][0] if depth else "exec"
            for pattern, action in self.rules(name):
                if match := re.fullmatch(pattern, words):
                    before = self.mode
                    if depth < len(self.mode) and words != "end":
                        self.mode = self.mode[:depth]
                    said = action(*match.groups())
                    if said:
                        self.mode = before
                    return said or ""
        return self.invalid

    def about(self) -> str:
        return self.mode[-1][1]

    def enter(self, name: str, about: str = "") -> None:
        self.mode = [*self.mode, (name, about)]

    def leave(self) -> None:
        if not self.mode:
            raise EOFError
        self.mode = self.mode[:-1]

    def end(self) -> None:
        self.mode = []

    def unpaged(self) -> None:
        self.paging = False

    def save(self) -> str | None:
        self.box.saves += 1
        return None


def numbers(text: str) -> frozenset[int]:
    if text in ("none", "NONE"):
        return frozenset()
    if text in ("all", "ALL"):
        return ALL
    found: set[int] = set()
    for part in text.split(","):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def listed(vlans: Iterable[int]) -> str:
    words: list[list[int]] = []
    for vlan in sorted(vlans):
        if words and words[-1][-1] == vlan - 1:
            words[-1][1:] = [vlan]
        else:
            words.append([vlan])
    return ",".join("-".join(map(str, word)) for word in words)


def wrapped(text: str, *, width: int, indent: str) -> str:
    """Break a list of VLANs into lines, as switches do."""
    lines, line = [], ""
    for word in text.split(","):
        if line and len(line) + len(word) > width:
            lines.append(line)
            line = ""
        line += f"{word},"
    return f"\n{indent}".join([*lines, line.rstrip(",")])


def without(settings: dict[str, Any], *names: str) -> None:
    for name in names:
        with suppress(KeyError):
            del settings[name]
