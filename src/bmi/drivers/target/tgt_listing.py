"""What tgtd's listings say.

They are made for people and carry text that an initiator chose (its alias, line breaks included). So a
target's name and id are taken only from the listing of drivers, which has no foreign text in it; in the long
listing a heading counts only with an id that is known from there, and of two sections with the same heading
the last one, because tgtd prints the initiators first.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace


@dataclass(frozen=True)
class ListedLun:
    """A logical unit of a target; number 0 is the controller."""

    number: int
    serial: str
    readonly: bool
    path: str
    type: str
    """How tgtd reaches the path: its `bstype`."""


@dataclass
class ListedTarget:
    """A target and what belongs to it."""

    tid: int
    name: str
    luns: list[ListedLun] = field(default_factory=list)
    accounts: list[str] = field(default_factory=list)
    initiators: list[str] = field(default_factory=list)
    """Names that are let in; with none, nobody is."""


@dataclass(frozen=True)
class Connection:
    """One TCP connection of an initiator's session."""

    session: int
    number: int
    initiator: str
    address: str
    """Empty if the other end is gone already."""


_TARGET = re.compile(r"\s*Target (\d+): (\S+)")
_LUNS = "    LUN information:"
_ACCOUNTS = "    Account information:"
_INITIATORS = "    ACL information:"
_ENTRY = " " * 8


def target_ids(text: str) -> dict[str, int]:
    """Read the ids of all targets by name from the listing of drivers."""
    found = (_TARGET.fullmatch(line) for line in text.split("\n"))
    return {match[2]: int(match[1]) for match in found if match}


def targets(text: str, ids: Mapping[str, int]) -> list[ListedTarget]:
    """Read the long listing of targets; `ids` says which really exist."""
    listed = {name: ListedTarget(tid, name) for name, tid in ids.items()}
    current: ListedTarget | None = None
    section = ""
    for line in text.split("\n"):
        match = _TARGET.fullmatch(line)
        if match and ids.get(match[2]) == int(match[1]):
            current, section = listed[match[2]], ""
        elif current is None:
            continue
        elif line.endswith(_LUNS):  # an alias that tgtd cut off stands before it on the same line
            current.luns.clear()
            section = _LUNS
        elif line == _ACCOUNTS:
            current.accounts.clear()
            section = _ACCOUNTS
        elif line == _INITIATORS:
            current.initiators.clear()
            section = _INITIATORS
        elif line.startswith(_ENTRY):
            _take(current, section, line)
    return list(listed.values())


def _take(target: ListedTarget, section: str, line: str) -> None:
    if section == _ACCOUNTS:
        target.accounts.append(line.removeprefix(_ENTRY))
    elif section == _INITIATORS:
        target.initiators.append(line.removeprefix(_ENTRY))
    elif section == _LUNS:
        key, _, value = line.lstrip().partition(": ")
        _take_lun(target.luns, key, value)


def _take_lun(luns: list[ListedLun], key: str, value: str) -> None:
    if key == "LUN" and value.isdecimal():
        luns.append(ListedLun(int(value), serial="", readonly=False, path="", type=""))
    elif luns and key == "SCSI SN":
        luns[-1] = replace(luns[-1], serial=value)
    elif luns and key == "Readonly":
        luns[-1] = replace(luns[-1], readonly=value == "Yes")
    elif luns and key == "Backing store type":
        luns[-1] = replace(luns[-1], type=value)
    elif luns and key == "Backing store path":
        luns[-1] = replace(luns[-1], path=value)


def connections(text: str) -> list[Connection]:
    """Read the listing of a target's connections."""
    found: list[Connection] = []
    session = number = 0
    for line in text.split("\n"):
        key, _, value = line.strip().partition(": ")
        if key == "Session":
            session = int(value)
        elif key == "Connection":
            number = int(value)
        elif key == "Initiator":
            found.append(Connection(session, number, value, ""))
        elif key == "IP Address":
            found[-1] = Connection(session, number, found[-1].initiator, value)
    return found


def accounts(text: str) -> set[str]:
    """Read the listing of accounts."""
    return {line.strip() for line in text.split("\n")[1:] if line.strip()}


def portals(text: str) -> list[str]:
    """Read the listing of portals, as `ADDRESS:PORT`."""
    lines = [line.removeprefix("Portal: ") for line in text.split("\n") if line.startswith("Portal: ")]
    return [line.rsplit(",", 1)[0] for line in lines]
