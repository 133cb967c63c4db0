"""What to say to each vendor's switches, and how to read what they answer: one file each.

A dialect is data and pure functions; it never talks to a switch itself. What it reads comes from a switch that may
be broken or hostile: whatever cannot be read raises `Unreadable`.
"""

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, wraps
from importlib import import_module
from typing import ClassVar, ParamSpec

from bmi.drivers.switch import ISOLATED, VLANS, PortVlans, runs

NAMES = (
    "cisco_nxos",
    "cisco_ios",
    "arista_eos",
    "dell_os9",
    "dell_os10",
    "juniper_junos",
    "cumulus_nvue",
    "sonic",
    "aruba_aoscx",
)
"""Dialects, each in a module of its name."""

EVERY = frozenset(VLANS)
"""All VLANs: what a trunk without a list carries."""

_PIECE = 200  # characters of a list of VLANs in one command; some switches take lines of 255


class Unreadable(Exception):
    """What a switch answered is not what such a switch answers; the text says what was looked for."""


@dataclass(frozen=True)
class Found:
    """A port as its switch has it."""

    vlans: PortVlans
    """What it carries."""
    set_to: PortVlans = ISOLATED
    """What its settings name, and would be carried if the port was not shut."""
    link: bool | None = None
    unusable: str = ""
    """Why no VLAN can be set on it, as in "it is a routed port"; empty if one can."""


@dataclass(frozen=True)
class Reading:
    """All ports and VLANs of a switch, read at one moment."""

    ports: Mapping[str, Found]
    vlans: frozenset[int] = field(default_factory=frozenset)
    """VLANs that the switch knows."""


def unusable(why: str, link: bool | None = None) -> Found:
    """Return a port on which no VLAN can be set. What it carries is not known: it counts as everything."""
    return Found(PortVlans(0, EVERY), link=link, unusable=why)


P = ParamSpec("P")


def readable(read: Callable[P, Found]) -> Callable[P, Found]:
    """Have what reads one port not fail: one with strange settings must not keep BMI from all others."""

    @wraps(read)
    def reads(*arguments: P.args, **more: P.kwargs) -> Found:
        try:
            return read(*arguments, **more)
        except Unreadable as error:
            return unusable(f"its settings were to have {error}")

    return reads


class Dialect(ABC):
    """How a kind of switch is talked to."""

    name: ClassVar[str]
    title: ClassVar[str]
    """What people call it."""
    device_type: ClassVar[str]
    """netmiko's name for it: how a session is prepared, and paging switched off."""
    port_name: ClassVar[re.Pattern[str]]
    """What names of ports look like; nothing else ever gets into a command."""
    enables: ClassVar[bool] = True
    """Whether an account may have to say `enable` before it may do anything."""
    enter: ClassVar[tuple[str, ...]] = ("configure terminal",)
    """From the prompt after the log-in to where ports are configured."""
    leave: ClassVar[tuple[str, ...]] = ("end",)
    commit: ClassVar[tuple[str, ...]] = ()
    """Makes what was asked for take effect; empty where each command does at once."""
    discard: ClassVar[tuple[str, ...]] = ()
    """Forgets what was asked for and not committed."""
    save: ClassVar[tuple[str, ...]] = ()
    """Makes it outlive a restart of the switch; empty where a commit does."""
    questions: ClassVar[tuple[str, ...]]
    """Commands that show all ports and VLANs."""
    refusal: ClassVar[re.Pattern[str]] = re.compile(
        r"^ *(?:% ?(?:error|invalid|incomplete|ambiguous|unrecogni[sz]ed|unknown|bad|not |cannot|command|"
        r"permission|authorization|access denied|unable|failed)|error\b|command rejected|invalid (?:input|command)|"
        r"permission denied|authorization failed|syntax error)[^\n]*",
        re.IGNORECASE | re.MULTILINE,
    )
    """A line that says that a command was not carried out. Warnings are none: reading back decides."""

    def refused(self, answer: str) -> str:
        """Return the line in which the switch says that a command was not carried out; empty if it was."""
        match = self.refusal.search(answer)
        return match[0].strip() if match else ""

    def wrapped(self, command: str) -> str:
        """Return a command that changes something, as it is sent."""
        return command

    def lacks(self, vlans: PortVlans) -> str:
        """Say why no port of such a switch can carry these VLANs; empty if one can."""
        return ""

    def needed(self, vlans: PortVlans) -> frozenset[int]:
        """Return the VLANs that the switch must know before a port can carry these."""
        return vlans.ids

    @abstractmethod
    def read(self, answers: Sequence[str]) -> Reading:
        """Understand the answers to `questions`.

        Raises:
            Unreadable: They are not what such a switch answers.
        """

    @abstractmethod
    def make_vlan(self, vlan: int) -> Sequence[str]:
        """Return what makes a VLAN that the switch does not know.

        This, `strip` and `fill` leave every sub-mode that they enter, so that a command which is refused
        unnoticed cannot have those after it act on another port.
        """

    @abstractmethod
    def strip(self, port: str, found: Found) -> Sequence[str]:
        """Return what isolates a port, whatever it carries."""

    @abstractmethod
    def fill(self, port: str, vlans: PortVlans) -> Sequence[str]:
        """Return what makes an isolated port carry VLANs; at no command a VLAN that is not one of them."""


@cache
def dialect(name: str) -> Dialect:
    """Return the dialect of a name in `NAMES`."""
    made: Dialect = import_module(f"{__name__}.{name}").DIALECT
    return made


def numbers(text: str) -> frozenset[int]:
    """Read a list of VLANs, as in "1,5-7"; "none" and "all" in any case.

    Raises:
        Unreadable: It is no such list.
    """
    compact = "".join(text.split())
    if compact.lower() in ("none", ""):
        return frozenset()
    if compact.lower() == "all":
        return EVERY
    found: set[int] = set()
    for part in compact.split(","):
        if not (match := re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)):
            raise Unreadable(f"a list of VLANs, not {text[:40]!r}")
        found.update(range(int(match[1]), int(match[2] or match[1]) + 1))
    if not found <= EVERY:
        raise Unreadable(f"VLANs from 1 to 4094, not {text[:40]!r}")
    return frozenset(found)


def listed(vlans: frozenset[int], *, separator: str = ",") -> str:
    """Write a list of VLANs the way that switches take it: 1,5-7."""
    return separator.join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs(vlans))


def trunk(native: int, allowed: frozenset[int]) -> PortVlans:
    """Return what a trunk carries whose untagged frames belong to a VLAN that may not be allowed on it."""
    return PortVlans(native if native in allowed else None, allowed - {native})


def spare(vlans: PortVlans) -> int:
    """Return the native VLAN of a port: its own, or for one without the lowest that it does not carry.

    A trunk drops untagged frames if its native VLAN is not one of those allowed.
    """
    if vlans.native is not None:
        return vlans.native
    return next(vlan for vlan in VLANS if vlan not in vlans.tagged)


def pieces(vlans: frozenset[int]) -> list[str]:
    """Write a list of VLANs in as many pieces as lines of a command line can hold."""
    found: list[str] = []
    for word in listed(vlans).split(",") if vlans else []:
        if found and len(found[-1]) + len(word) < _PIECE:
            found[-1] += f",{word}"
        else:
            found.append(word)
    return found


def sections(text: str) -> dict[str, list[str]]:
    """Return the blocks of a running configuration: each line that begins at the margin, with those below it."""
    found: dict[str, list[str]] = {}
    block: list[str] = []
    for line in text.splitlines():
        if line[:1].strip():
            block = found.setdefault(line.strip(), [])
        elif line.strip():
            block.append(" ".join(line.split()))
    return found
