"""Which ports of a switch BMI may touch: a closed list of names, so that an uplink is never one by accident."""

import re
from collections.abc import Sequence

MOST = 4096  # ports; more than any switch has

_RANGE = re.compile(r"(.*?)(\d+)-(\d+)")


def expanded(patterns: Sequence[str], name: re.Pattern[str], dialect: str) -> tuple[str, ...]:
    """Return the names that patterns stand for, in order and without repetition.

    A pattern is a name, or a name that ends in a range: `Ethernet1/1-40` is Ethernet1/1 to Ethernet1/40. There
    is no wildcard, on purpose.

    Args:
        patterns: As in the settings.
        name: What names of ports look like on such a switch.
        dialect: What switch it is, for the error.

    Raises:
        ValueError: A pattern is no such name or range, or there are too many.
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        for port in names(pattern):
            if not name.fullmatch(port):
                raise ValueError(f"{port!r} is not the name of a port in the dialect {dialect}")
            found[port] = None
        if len(found) > MOST:
            raise ValueError(f"more than {MOST} ports")
    return tuple(found)


def names(pattern: str) -> list[str]:
    """Return the names that one pattern stands for.

    Raises:
        ValueError: It is a range that ends before it begins, or a very long one.
    """
    match = _RANGE.fullmatch(pattern)
    if match is None:
        return [pattern]
    stem, first, last = match[1], int(match[2][:9]), int(match[3][:9])
    if not first <= last < first + MOST:
        raise ValueError(f"{pattern!r} is not a range of ports, from the lower to the higher")
    return [f"{stem}{number}" for number in range(first, last + 1)]
