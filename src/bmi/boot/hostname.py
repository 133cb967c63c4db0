"""The one rule for a node's host name."""

import re

from bmi.errors import BadRequest

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII | re.IGNORECASE)
_LENGTH = 253  # characters of a name as a whole; RFC 1123, section 2.1


def check_hostname(name: str) -> str:
    """Return a host name, with or without a domain, that every reader takes (RFC 1123).

    Raises:
        BadRequest: It is none.
    """
    labels = name.split(".")
    like_an_address = len(labels) > 1 and labels[-1].isdigit()
    if len(name) > _LENGTH or like_an_address or not all(_LABEL.fullmatch(label) for label in labels):
        raise BadRequest(
            f"{name[:_LENGTH]!r} is no host name",
            next_step="use letters, digits and hyphens, at most 63 between two dots",
        )
    return name
