"""What commands print: tables and fields for people, JSON for programs.

On a terminal they are coloured and fit its width; in a pipe they are plain and nothing is cut.
"""

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

T = TypeVar("T", bound="BaseModel")

NONE = "-"

# Words that tell a person at a glance how things are; the states of nodes, things, operations and steps.
_COLOURS = {
    "green": ("available", "active", "ready", "succeeded", "done", "on", "up"),
    "yellow": (
        "creating",
        "removing",
        "provisioning",
        "deprovisioning",
        "queued",
        "running",
        "cancelling",
        "undone",
        "maintenance",
    ),
    "red": ("failed", "missing", "orphan", "differs"),
    "dim": ("cancelled", "off", NONE),
}
_COLOUR = {word: colour for colour, words in _COLOURS.items() for word in words}


def terminal() -> bool:
    """Say whether a person sees what is printed."""
    return sys.stdout.isatty()


def line(text: str = "") -> None:
    """Print a line, at once."""
    typer.echo(text)
    sys.stdout.flush()


def text(whole: str) -> None:
    """Print a text of several lines that ends its last one itself."""
    typer.echo(whole, nl=False)
    sys.stdout.flush()


def note(text: str) -> None:
    """Print a line for the person only, beside what a program may read."""
    typer.echo(text, err=True)


def as_json(answer: "BaseModel | Iterable[BaseModel]") -> None:
    """Print an answer, or a list of them as an array, as the API gave it."""
    if hasattr(answer, "model_dump"):
        line(json.dumps(answer.model_dump(mode="json"), indent=2))
    else:
        line(json.dumps([one.model_dump(mode="json") for one in answer], indent=2))


def table(headings: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str) -> None:
    """Print a table.

    Args:
        headings: One for each column.
        rows: Their cells; None is shown as a dash.
        empty: What to tell a person when there are no rows, and what to do then.
    """
    cells = [[_shown(cell) for cell in row] for row in rows]
    if not cells:
        note(empty)
        return
    if terminal():
        _rich_table(headings, cells)
        return
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    for row in (headings, *cells):
        line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def fields(pairs: Iterable[tuple[str, object]]) -> None:
    """Print one thing, a line for each of its fields; those that are None are left out."""
    kept = [(name, _shown(value)) for name, value in pairs if value is not None]
    width = max(len(name) for name, _ in kept)
    for name, value in kept:
        # Several values, such as NICs, stand under each other.
        for index, part in enumerate(value.splitlines() or [""]):
            label = ("" if index else name).ljust(width)
            line(f"{styled(label, dim=True)}  {_in_colour(part)}".rstrip())


def seconds(span: float) -> str:
    """Return a length of time as a person reads it."""
    if span < 60:
        return f"{span:.1f} s"
    minutes, rest = divmod(round(span), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def age(moment: datetime) -> str:
    """Return how long ago a moment was, in its largest unit."""
    span = max(0, round((datetime.now(UTC) - moment).total_seconds()))
    for length, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if span >= length:
            return f"{span // length} {unit}"
    return f"{span} s"


def size(amount: int) -> str:
    """Return bytes as a person reads them, in the units that `--size` takes."""
    scaled = float(amount)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if scaled < 1024:
            return f"{scaled:.3g} {unit}" if scaled < 1000 else f"{scaled:.0f} {unit}"
        scaled /= 1024
    return f"{scaled:.3g} TiB" if scaled < 1000 else f"{scaled:.0f} TiB"


def when(moment: datetime) -> str:
    """Return a moment in the person's own time zone."""
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"


def styled(text: str, *, fg: str | None = None, bold: bool = False, dim: bool = False) -> str:
    """Return a text in a style, where a person sees it and does not mind (https://no-color.org)."""
    if not terminal() or os.environ.get("NO_COLOR"):
        return text
    return typer.style(text, fg=fg, bold=bold or None, dim=dim or None)


def coloured(word: str) -> str:
    """Return the style that a state is shown in."""
    return _COLOUR.get(word, "")


def clean(text: str) -> str:
    """Return a text that cannot play tricks on a terminal."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def _shown(value: object) -> str:
    if value is None or value == "":
        return NONE
    if isinstance(value, datetime):
        return when(value)
    return clean(str(value))


def _in_colour(word: str) -> str:
    colour = coloured(word)
    if colour == "dim":
        return styled(word, dim=True)
    return styled(word, fg=colour) if colour else word


def _rich_table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for heading in headings:
        # Ids are there to be copied.
        made.add_column(heading, overflow="fold", no_wrap=heading == "ID")
    for row in cells:
        made.add_row(*(Text(cell, style=coloured(cell)) for cell in row))
    Console(highlight=False).print(made)
