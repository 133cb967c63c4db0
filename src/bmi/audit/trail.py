"""What becomes known about a request while it is answered, noted down where it is known.

It imports no room, so that every room can note something.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple
from uuid import UUID


class Note(NamedTuple):
    """One question to the policy."""

    action: str
    thing: str
    project: UUID | None


@dataclass
class Trail:
    """One request. Threads that work for it share it."""

    caller: str | None = None
    """Name of who asks; None as long as nobody is known."""
    token: UUID | None = None
    project: UUID | None = None
    """The project that the caller belongs to."""
    notes: list[Note] = field(default_factory=list)
    made: list[str] = field(default_factory=list)
    """What the request makes, in words."""
    code: str | None = None
    """Stable code of the error that was answered."""
    continued: bool = False
    """Whether it goes on with what has a line already, such as one more key that somebody types."""


_current: ContextVar[Trail | None] = ContextVar("bmi_trail", default=None)


def begin() -> Trail:
    """Begin the trail of a request, in this context and those copied from it."""
    trail = Trail()
    _current.set(trail)
    return trail


def identified(name: str, token: UUID, project: UUID | None) -> None:
    """Note who asks: the one place that knows what a caller looks like."""
    if trail := _current.get():
        trail.caller, trail.token, trail.project = name, token, project


def asked(action: str, thing: str, project: UUID | None) -> None:
    """Note what the policy was asked."""
    if trail := _current.get():
        trail.notes.append(Note(action, thing, project))


def makes(thing: str) -> None:
    """Note something new, which neither the path nor a question to the policy names."""
    if trail := _current.get():
        trail.made.append(thing)


def goes_on() -> None:
    """Note that the request goes on with what has a line already, and gets none if it succeeds."""
    if trail := _current.get():
        trail.continued = True


def answered(code: str) -> None:
    """Note the error that is answered."""
    if trail := _current.get():
        trail.code = code
