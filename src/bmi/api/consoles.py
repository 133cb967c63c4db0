"""Consoles on the wire."""

from datetime import datetime

from pydantic import Field

from bmi.api.common import Request, Response


class Recording(Response):
    """What a node said from one start by BMI to the next."""

    number: int
    """Counted for each node, from 1 on."""
    project: str | None
    """The project that had the node then."""
    began_at: datetime
    ended_at: datetime | None
    """When the node was started anew; null for the latest."""
    first: int
    """Offset of the first byte that is kept: of what is longer than is kept, the oldest is gone."""
    size: int
    """Offset after the last byte."""


class Console(Response):
    """A node's serial console."""

    open: bool
    """Whether BMI listens to it now, and types on it."""
    problem: str | None
    """Why not."""
    recordings: list[Recording]
    """Oldest first; there are as many as the service keeps, so all are on one page."""


class Output(Response):
    """A part of what a node said."""

    recording: int
    offset: int
    """Where it begins."""
    data: str
    """The bytes, in Base64."""
    next: int
    """Where to go on."""
    more: bool
    """Whether there is something there already."""


class Input(Request):
    """Something to type."""

    data: str = Field(min_length=1, max_length=5464, description="At most 4096 bytes, in Base64")
