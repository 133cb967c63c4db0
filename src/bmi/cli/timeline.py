"""Histories of events, as `bmi node events` and `bmi op events` show them."""

from collections import deque
from collections.abc import Iterable
from typing import Annotated, TypeAlias

import typer

from bmi.api.operations import Event
from bmi.cli import output

Follow: TypeAlias = Annotated[
    bool, typer.Option("--follow", "-f", help="Go on with what happens from now on; a JSON line for each.")
]
Last: TypeAlias = Annotated[
    int | None,
    typer.Option("--last", "-n", metavar="N", min=1, help="Only the last ones.", show_default="all"),
]

_KIND = 20  # characters; most kinds are shorter


def print_all(events: Iterable[Event], *, last: int | None, json: bool) -> None:
    """Print a history, or only its last events."""
    kept = list(deque(events, maxlen=last))
    if json:
        output.as_json(kept)
    elif not kept:
        output.note("nothing has happened yet")
    else:
        for event in kept:
            output.line(_line(event))


def print_as_they_come(events: Iterable[Event], *, json: bool) -> None:
    """Print events one by one, each on a line."""
    for event in events:
        output.line(event.model_dump_json() if json else _line(event))


def _line(event: Event) -> str:
    return f"{output.when(event.at)}  {event.kind:<{_KIND}}  {output.clean(event.message)}".rstrip()
