"""Options and arguments that several commands share, and how their values are read."""

import sys
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from re import ASCII, IGNORECASE, fullmatch
from typing import Annotated, TypeAlias

import typer

from bmi.api.nodes import Milestone
from bmi.cli import complete

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def size(text: str) -> int:
    """Return the bytes that `2G`, `20GiB`, `1.5T` or `512M` stand for; units are powers of 1024."""
    match = fullmatch(r"(\d+(?:\.\d+)?) ?(?:([KMGT])(?:iB)?|B)?", text.strip(), ASCII | IGNORECASE)
    if match:
        number = Fraction(match[1]) * _UNITS[(match[2] or "").upper()]
        if number > 0 and number.denominator == 1:
            return int(number)
    raise typer.BadParameter(f"{text!r} is no size: write it as 2G, 20GiB or 512M")


def span(text: str) -> float:
    """Return the seconds that `90s`, `30m`, `2h` or `7d` stand for."""
    match = fullmatch(r"(\d+(?:\.\d+)?) ?([smhd]?)", text.strip(), ASCII)
    if match and float(match[1]) > 0:
        return float(match[1]) * _SPANS[match[2] or "s"]
    raise typer.BadParameter(f"{text!r} is no length of time: write it as 90s, 30m, 2h or 7d")


def moment(text: str) -> datetime:
    """Return the moment that a date, or a span from now, stands for; UTC if it names no zone."""
    try:
        given = datetime.fromisoformat(text)
    except ValueError:
        return datetime.now(UTC) + timedelta(seconds=span(text))
    return given if given.tzinfo else given.replace(tzinfo=UTC)


def subnet(text: str) -> IPv4Network:
    """Return the IPv4 network that `10.7.0.0/24` stands for."""
    try:
        return IPv4Network(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no subnet: {error}") from error


def address(text: str) -> str:
    """Return an IPv4 address as it is written, once it is known to be one."""
    try:
        return str(IPv4Address(text))
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no IPv4 address, write it as 10.7.0.1") from error


def content(file: str) -> str:
    """Return the text of a file, or of the standard input if it is `-`."""
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise typer.BadParameter(f"{file} is not text") from error


def secret(file: str) -> str:
    """Return what stands in a file, or on the standard input if it is `-`, without its line end."""
    return content(file).rstrip("\r\n")


Until: TypeAlias = Annotated[Milestone, typer.Option(help="How far to follow the boot.")]
Deadline: TypeAlias = Annotated[str, typer.Option(metavar="TIME", help="How long the boot may take.")]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON as the API gives it.")]
ProjectName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--project",
        "-p",
        metavar="PROJECT",
        help="Project to work in.",
        show_default="your profile's",
        autocompletion=complete.projects,
    ),
]
Wait: TypeAlias = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Wait for the end, or just print the operation's id.")
]
