"""Identifiers: time-ordered, never reused."""

from uuid import UUID

import uuid_utils


def new_id() -> UUID:
    """Return a new time-ordered UUID (version 7, RFC 9562)."""
    return UUID(int=uuid_utils.uuid7().int)


def short(id: UUID) -> str:
    """Return the 12 hexadecimal digits of an id that are random, for names that must be short.

    A network interface's name has 15 characters at the most (IFNAMSIZ in linux/if.h).
    """
    return id.hex[-12:]
