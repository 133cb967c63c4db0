"""Reads answers in JSON, which a switch may send in any shape."""

import json
from collections.abc import Mapping
from typing import Any

from bmi.drivers.switch.netmiko.dialects import Unreadable


def load(answer: str) -> Mapping[str, Any]:
    """Read an object.

    Raises:
        Unreadable: It is not one.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        raise Unreadable(f"JSON, not {' '.join(answer.split())[:80]!r}") from None
    if not isinstance(found, dict):
        raise Unreadable(f"an object in JSON, not {' '.join(answer.split())[:80]!r}")
    return found


def each(table: Mapping[str, Any], row: str) -> list[Mapping[str, Any]]:
    """Return the rows of a table; where there is one only, some switches leave the list out."""
    found = table.get(row, [])
    rows = found if isinstance(found, list) else [found]
    return [each for each in rows if isinstance(each, dict)]


def inside(answer: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    """Return an object inside of others; an empty one where there is none."""
    for name in names:
        found = answer.get(name)
        if not isinstance(found, dict):
            return {}
        answer = found
    return answer


def number(answer: Mapping[str, Any], name: str) -> int:
    """Return a whole number.

    Raises:
        Unreadable: There is none of that name.
    """
    found = answer.get(name)
    if isinstance(found, bool) or not isinstance(found, int | str) or not str(found).isascii():
        raise Unreadable(f"a number {name}")
    if not str(found).isdigit() or len(str(found)) > 9:
        raise Unreadable(f"a number {name}")
    return int(found)


def load_list(answer: str) -> list[Mapping[str, Any]]:
    """Read a list of objects.

    Raises:
        Unreadable: It is not one.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list):
        raise Unreadable(f"a list in JSON, not {' '.join(answer.split())[:80]!r}")
    return [each for each in found if isinstance(each, dict)]
