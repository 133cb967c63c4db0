"""Use cases of consoles: a recording for each start, reading it, typing.

A recording belongs to the project that had the node when it began, and is added to only while that project has it.
So nothing of one tenant's system can end up where the next one reads, nor the other way round.
"""

import base64
from datetime import timedelta
from uuid import UUID

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.consoles.models import ConsoleSession, Piece, Recording, Typed
from bmi.db import now
from bmi.errors import BadRequest, ConsoleUnavailable, NotFound
from bmi.nodes.models import Node
from bmi.parts import Parts

CONSOLES = "bmi_consoles"
"""Channel of signals: a node's recording is another one, or something is to be typed."""
WATCHED = "bmi_watched"
"""Channel of signals: somebody looks at a node's console just now."""

PIECE = 16384
"""Bytes of a recording that are kept in one row."""
INPUT_MOST = 4096
"""Bytes that can be typed at once."""
STALE = timedelta(seconds=10)
"""After which what was typed is not typed any more: whoever did so has given up."""

_WAITING_MOST = 64  # inputs that may wait for one node; a session takes them in milliseconds


def begin(session: Session, parts: Parts, node: Node) -> None:
    """Begin a recording, because a node is about to be switched on; the one before is complete.

    To be called in a transaction that is committed before the node has power.
    """
    if not parts.settings.console.enabled:
        return
    latest = session.scalar(
        select(Recording).where(Recording.node_id == node.id).order_by(Recording.number.desc()).limit(1)
    )
    if latest and not latest.size and not latest.ended_at and latest.project_id == node.project_id:
        latest.began_at = now()  # a start that was tried again, or a node that says nothing
        return
    for before in session.scalars(
        select(Recording).where(Recording.node_id == node.id, Recording.ended_at.is_(None))
    ):
        before.ended_at = now()
    last = session.scalar(select(func.max(Recording.number)).where(Recording.node_id == node.id))
    session.add(Recording(node_id=node.id, project_id=node.project_id, number=(last or 0) + 1))
    session.flush()
    kept = select(Recording).where(Recording.node_id == node.id).order_by(Recording.number.desc())
    for old in session.scalars(kept.offset(parts.settings.console.boots)):
        session.delete(old)
    parts.signals.send(session, CONSOLES, str(node.id))


def append(session: Session, recording: Recording, said: bytes, most: int) -> None:
    """Add to a recording what a node said; the oldest goes where that is more than is kept.

    Args:
        session: The transaction.
        recording: Which one.
        said: What comes next.
        most: Bytes that are kept; up to one piece more.
    """
    last = session.scalar(
        select(Piece).where(Piece.recording_id == recording.id).order_by(Piece.start.desc()).limit(1)
    )
    if last is not None and (room := PIECE - len(last.content)) > 0:
        last.content += said[:room]
        recording.size += len(said[:room])
        said = said[room:]
    while said:
        session.add(Piece(recording_id=recording.id, start=recording.size, content=said[:PIECE]))
        recording.size += len(said[:PIECE])
        said = said[PIECE:]
    session.flush()
    oldest = select(Piece).where(Piece.recording_id == recording.id).order_by(Piece.start)
    while recording.size - recording.first > most + PIECE:
        piece = session.scalars(oldest.limit(1)).one()
        recording.first = piece.start + len(piece.content)
        session.delete(piece)
        session.flush()


def recordings(session: Session, caller: Caller, node: Node) -> list[Recording]:
    """Return a node's recordings that a caller may read, oldest first: those of the project that has it now."""
    query = select(Recording).where(Recording.node_id == node.id)
    if not caller.admin:
        query = query.where(Recording.project_id == node.project_id)
    return list(session.scalars(query.order_by(Recording.number)))


def find_recording(session: Session, caller: Caller, node: Node, number: int) -> Recording:
    """Return one of a node's recordings.

    Args:
        session: The session.
        caller: Who asks; that he may read this node's console was asked before.
        node: The node.
        number: Which one; the latest if 0.

    Raises:
        NotFound: There is none of that number, or not for this caller.
    """
    found = [row for row in recordings(session, caller, node) if number in (0, row.number)]
    if not found:
        what = f"recording {number}" if number else "recording"
        raise NotFound(
            f"there is no {what} of the console of node {node.name}",
            next_step=f"see what there is: bmi node console {node.name} --list",
        )
    return found[-1]


def read(session: Session, recording: Recording, offset: int, limit: int) -> tuple[int, bytes]:
    """Return what a recording has from an offset on.

    Args:
        session: The session.
        recording: Which one.
        offset: Where to begin; a negative one counts from the end.
        limit: Bytes at the most.

    Returns:
        Where it really begins, which is later where the oldest is gone, and the bytes.
    """
    begin = max(recording.first, offset if offset >= 0 else recording.size + offset)
    pieces = session.scalars(
        select(Piece)
        .where(Piece.recording_id == recording.id, Piece.start > begin - PIECE, Piece.start < begin + limit)
        .order_by(Piece.start)
    )
    content = bytearray()
    for piece in pieces:
        content += piece.content[max(0, begin - piece.start) :]
    return begin, bytes(content[:limit])


def last_words(session: Session, node: UUID, most: int) -> str:
    """Return the end of what a node said since it was last switched on, as one printable line.

    Args:
        session: The session.
        node: The node.
        most: Characters.
    """
    recording = session.scalar(
        select(Recording).where(Recording.node_id == node).order_by(Recording.number.desc()).limit(1)
    )
    if recording is None:
        return ""
    _, said = read(session, recording, -4 * most, 4 * most)
    text = "".join(each if each.isprintable() else " " for each in said.decode(errors="replace"))
    return " ".join(text.split())[-most:]


def problem_of(held: ConsoleSession | None, caller: Caller) -> str | None:
    """Say why a console is not open; how its controller is reached is for admins."""
    if held is None or held.problem is None:
        return None
    return held.problem if caller.admin else "its controller gives no console now; an admin sees why"


def type_in(session: Session, parts: Parts, caller: Caller, node: Node, data: bytes) -> None:
    """Have something typed on a node's console, by the worker that holds its session.

    Raises:
        BadRequest: It is too long.
        ConsoleUnavailable: The console is not open; the error says why.
    """
    if len(data) > INPUT_MOST:
        raise BadRequest(
            f"{len(data)} bytes cannot be typed at once", next_step=f"send {INPUT_MOST} at the most"
        )
    session.execute(delete(Typed).where(Typed.node_id == node.id, Typed.typed_at < now() - STALE))
    held = session.scalar(select(ConsoleSession).where(ConsoleSession.node_id == node.id))
    waiting = session.scalar(select(func.count()).select_from(Typed).where(Typed.node_id == node.id)) or 0
    if held is None or not held.open or waiting >= _WAITING_MOST:
        why = problem_of(held, caller) or "nobody holds its session"
        raise ConsoleUnavailable(
            f"the console of node {node.name} is not open: {why}", next_step="try again when it is"
        )
    sealed = parts.vault.seal(base64.b64encode(data).decode())
    session.add(Typed(node_id=node.id, project_id=node.project_id, content=sealed))
    for channel in (CONSOLES, WATCHED):
        parts.signals.send(session, channel, str(node.id))


def watched(parts: Parts, node: UUID) -> None:
    """Tell the worker that holds a node's session that somebody looks: what is said is stored at once then."""
    with parts.db.write(alone=False) as session:
        parts.signals.send(session, WATCHED, str(node))


def is_recorded(session: Session, caller: Caller, node: Node) -> bool:
    """Say whether there is something in a node's latest recording that a caller may read."""
    query = select(Recording).where(Recording.node_id == node.id).order_by(Recording.number.desc()).limit(1)
    row = session.scalar(query)
    if row is None or row.size == 0:
        return False
    if caller.admin:
        return True
    return row.project_id is not None and row.project_id == node.project_id and row.project_id in caller.roles
