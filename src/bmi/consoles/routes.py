"""HTTP of consoles: what there is, reading, following, typing."""

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.rules import asks
from bmi.access.service import find_owned
from bmi.api import consoles as wire
from bmi.audit import trail
from bmi.consoles import service as consoles
from bmi.consoles.models import ConsoleSession, Recording
from bmi.consoles.typing_lines import TypingLines
from bmi.errors import BadRequest, BmiError, NotFound
from bmi.http import Service, TheService, Who
from bmi.nodes.models import Node

router = APIRouter(tags=["consoles"])

_POLL = 0.1  # seconds between two looks at a console that is followed
_KEEP_ALIVE = 15.0  # seconds of silence after which a comment line is sent
_WATCHED = 20.0  # seconds between two signs that somebody looks
_LONGEST = 3600.0  # seconds of one stream; whoever wants more asks again, so that none is forgotten
_READ_MOST = 65536  # bytes of one answer

_lines = TypingLines()

Offset = Annotated[int, Query(description="Where to begin; a negative one counts from the end")]


@router.get("/nodes/{node}/console", dependencies=[asks(Action.CONSOLE_READ)])
def show_console(service: TheService, who: Who, node: str) -> wire.Console:
    """Show whether a node's console is open, and which starts of the node are recorded."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Node, node, Action.CONSOLE_READ, project=None)
        held = session.scalar(select(ConsoleSession).where(ConsoleSession.node_id == row.id))
        why = "consoles are not recorded here" if not service.parts.settings.console.enabled else None
        return wire.Console(
            open=bool(held and held.open),
            problem=why or consoles.problem_of(held, who),
            recordings=[_recording(each) for each in consoles.recordings(session, who, row)],
        )


@router.get("/nodes/{node}/console/recordings/{number}", dependencies=[asks(Action.CONSOLE_READ)])
def read_console(
    service: TheService,
    who: Who,
    node: str,
    number: Annotated[int, Path(ge=0, description="Which recording; the latest if 0")],
    offset: Offset = 0,
    limit: Annotated[int, Query(ge=1, le=_READ_MOST)] = _READ_MOST,
) -> wire.Output:
    """Read what a node said, a part at a time."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Node, node, Action.CONSOLE_READ, project=None)
        return _output(session, consoles.find_recording(session, who, row, number), offset, limit)


@router.get(
    "/nodes/{node}/console/stream",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "What the node says, as it comes"}},
    dependencies=[asks(Action.CONSOLE_READ)],
)
async def follow_console(
    service: TheService,
    who: Who,
    node: str,
    recording: Annotated[int, Query(ge=0, description="Which one was seen last; 0 if none")] = 0,
    offset: Offset = -4096,
    seconds: Annotated[float, Query(gt=0, le=_LONGEST, description="After which the stream ends")] = _LONGEST,
) -> StreamingResponse:
    """Follow a console as server-sent events, from one start to the next, as long as the node is the caller's."""
    id = await run_in_threadpool(_find, service, who, node)
    at = (recording, offset) if recording else None
    parts = _follow(service, who, id, at, offset, time.monotonic() + seconds)
    return StreamingResponse(parts, media_type="text/event-stream")


@router.post("/nodes/{node}/console/input", status_code=204, dependencies=[asks(Action.CONSOLE_WRITE)])
def type_on_console(service: TheService, who: Who, node: str, body: wire.Input) -> None:
    """Type something on a node's console. What it is stands in no log and no trail."""
    try:
        data = base64.b64decode(body.data, validate=True)
    except ValueError as error:  # binascii.Error is one, and so is what is said of other than ASCII
        raise BadRequest(
            "data is not Base64", next_step="encode it as RFC 4648, section 4, has it"
        ) from error
    with service.parts.db.write() as session:
        row = find_owned(session, who, Node, node, Action.CONSOLE_WRITE, project=None)
        consoles.type_in(session, service.parts, who, row, data)
    if not _lines.is_first(who.name, row.id):
        trail.goes_on()


def _find(service: Service, who: Caller, node: str) -> UUID:
    with service.parts.db.read() as session:
        return find_owned(session, who, Node, node, Action.CONSOLE_READ, project=None).id


async def _follow(
    service: Service, who: Caller, node: UUID, at: tuple[int, int] | None, offset: int, end: float
) -> AsyncIterator[str]:
    """Give what a node says.

    Args:
        service: The service.
        who: Who follows.
        node: The node.
        at: Recording and offset up to which it was seen; None if nothing was.
        offset: Where to begin then.
        end: When to end, by the monotonic clock.
    """
    silent_since, watched = time.monotonic(), float("-inf")
    while time.monotonic() < end:
        try:
            if time.monotonic() - watched > _WATCHED:
                watched = time.monotonic()
                await run_in_threadpool(consoles.watched, service.parts, node)
            output = await run_in_threadpool(_next, service, who, node, at, offset)
        except BmiError as error:
            # The answer has begun, so that no other status can be given.
            yield f"event: end\ndata: {' '.join(str(error).split())}\n\n"
            return
        if output is not None and (output.data or at is None or at[0] != output.recording):
            yield f"event: output\ndata: {output.model_dump_json()}\n\n"
            at, silent_since = (output.recording, output.next), time.monotonic()
        elif time.monotonic() - silent_since > _KEEP_ALIVE:
            yield ": still here\n\n"
            silent_since = time.monotonic()
        if output is None or not output.more:
            await asyncio.sleep(_POLL)


def _next(
    service: Service, who: Caller, node: UUID, at: tuple[int, int] | None, offset: int
) -> wire.Output | None:
    """Return what comes after what was sent last; of a start that there was since, from its beginning."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Node, str(node), Action.CONSOLE_READ, project=None)
        try:
            recording = consoles.find_recording(session, who, row, 0)
        except NotFound:
            return None  # it has not been started yet
        begin = offset if at is None else at[1] if at[0] == recording.number else 0
        return _output(session, recording, begin, _READ_MOST)


def _output(session: Session, recording: Recording, offset: int, limit: int) -> wire.Output:
    begin, content = consoles.read(session, recording, offset, limit)
    following = begin + len(content)
    return wire.Output(
        recording=recording.number,
        offset=begin,
        data=base64.b64encode(content).decode(),
        next=following,
        more=following < recording.size,
    )


def _recording(row: Recording) -> wire.Recording:
    return wire.Recording(
        number=row.number,
        project=row.project.name if row.project else None,
        began_at=row.began_at,
        ended_at=row.ended_at,
        first=row.first,
        size=row.size,
    )
