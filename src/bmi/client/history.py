"""Following a history of events that grows at its end."""

import time
from collections.abc import Callable, Iterator
from uuid import UUID

from bmi.api.operations import Event
from bmi.client.errors import Unreachable
from bmi.client.transport import Path, Transport

_LOOK = 1.0  # seconds between two looks for new events; a boot's milestones are seconds apart


def follow(transport: Transport, path: Path, *, over: Callable[[], bool]) -> Iterator[Event]:
    """Go through a history, oldest event first, and on through what happens from now on.

    Args:
        transport: The way to the service.
        path: Segments of the history's path.
        over: Whether nothing more will happen; asked before each look.

    Raises:
        Unreachable: The service does not answer; later on, its absence is borne.
    """
    cursor: str | None = None
    seen: set[UUID] = set()
    answered = False
    while True:
        try:
            last_look = over()
            page = transport.page(path, Event, query={"cursor": cursor})
        except Unreachable:
            if not answered:
                raise
            time.sleep(_LOOK)
            continue
        answered = True
        yield from (event for event in page.items if event.id not in seen)
        seen |= {event.id for event in page.items}
        if page.next is not None:
            # The cursor of the last page is kept: the events to come are on it, or behind it.
            cursor, seen = page.next, set()
        elif last_look:
            return
        else:
            time.sleep(_LOOK)
