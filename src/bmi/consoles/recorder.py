"""Records what nodes say: a worker holds the consoles of nodes in use, and writes down what comes.

Each node's session belongs to one worker, as the database says; that of a worker that died goes to another. What
all nodes said is stored in one transaction a second, ten where somebody looks: so many quiet nodes cost nothing,
and many busy ones no more transactions than one.
"""

import base64
import binascii
import logging
import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from uuid import UUID

from sqlalchemy import delete, select, update
from sqlalchemy.orm import Session

from bmi.consoles import service
from bmi.consoles.line import Line
from bmi.consoles.models import ConsoleSession, Recording, Typed
from bmi.consoles.service import CONSOLES, STALE, WATCHED
from bmi.db import now
from bmi.drivers.power import Console
from bmi.errors import BmiError
from bmi.nodes.models import Node
from bmi.nodes.service import bmc_of
from bmi.parts import Parts
from bmi.provisioning.workers import dead_workers

log = logging.getLogger(__name__)

ROUND = 1.0  # seconds between two looks at the database, and between two transactions with what was said
WATCHED_ROUND = 0.1  # seconds between two of those while somebody looks
WATCHED_FOR = 45.0  # seconds for which a node counts as looked at


class Recorder:
    """One worker's part of the consoles."""

    def __init__(self, parts: Parts, worker: str) -> None:
        """Prepare; nothing is opened yet.

        Args:
            parts: The parts.
            worker: Name of this worker.
        """
        self._parts = parts
        self._worker = worker
        self._lines: dict[UUID, Line] = {}
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._look_now = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="consoles", daemon=True)
        parts.signals.on(CONSOLES, self._asked)
        parts.signals.on(WATCHED, self._looked_at)

    def start(self) -> None:
        """Begin to record, if the settings say so."""
        if self._parts.settings.console.enabled:
            self._thread.start()

    def close(self) -> None:
        """Store what was said, and give all sessions back, so that another worker can have them at once."""
        self._stop.set()
        self._wake.set()
        if not self._thread.is_alive():
            return
        self._thread.join()
        for line in self._lines.values():
            line.stop()
        for line in self._lines.values():
            line.join()
        try:
            self._store()
            with self._parts.db.write() as session:
                self._release(session, list(self._lines))
        except BmiError as error:
            log.warning("the consoles could not be given back: %s", error)
        self._lines.clear()

    # --- signals -------------------------------------------------------------------------------------------

    def _asked(self, _node: str | None) -> None:
        self._look_now.set()
        self._wake.set()

    def _looked_at(self, node: str | None) -> None:
        line = self._lines.get(UUID(node)) if node else None
        if line is not None:
            line.watched_until = time.monotonic() + WATCHED_FOR
            self._wake.set()

    # --- the thread ----------------------------------------------------------------------------------------

    def _repeat(self) -> None:
        looked = 0.0
        while not self._stop.is_set():
            try:
                if self._look_now.is_set() or time.monotonic() - looked >= ROUND:
                    self._look_now.clear()
                    looked = time.monotonic()
                    self._look()
                self._store()
            except BmiError as error:
                log.warning("consoles cannot be recorded: %s", error)
            except Exception:
                log.exception("recording consoles")
            self._wake.wait(self._pause())
            self._wake.clear()

    def _pause(self) -> float:
        now = time.monotonic()
        looked_at = any(line.watched_until > now for line in list(self._lines.values()))
        return WATCHED_ROUND if looked_at else ROUND

    # --- which consoles are ours ---------------------------------------------------------------------------

    def _look(self) -> None:
        """Take what nobody has, let go of what is not ours or not in use, and see what is recorded and typed."""
        with self._parts.db.read() as session:
            in_use = set(session.scalars(select(Node.id).where(Node.project_id.is_not(None))))
            sessions = {row.node_id: row for row in session.scalars(select(ConsoleSession))}
            dead = set(dead_workers(self._parts.db, session)) if self._parts.db.shared else set()
            current = select(Recording.node_id, Recording.id).where(Recording.ended_at.is_(None))
            recordings = {row[0]: row[1] for row in session.execute(current)}
            waiting = session.scalar(select(Typed.id).where(Typed.node_id.in_(list(self._lines))).limit(1))
        free = {node for node in in_use if self._is_free(sessions.get(node), dead)}
        lost = [
            node
            for node, line in self._lines.items()
            if node not in in_use or not self._is_ours(sessions.get(node), line)
        ]
        self._end(lost)
        for node, claim in self._claim(free - set(self._lines)).items():
            self._lines[node] = Line(node, claim, lambda node=node: self._open(node))  # type: ignore[misc]
        for node, line in self._lines.items():
            line.record(recordings.get(node))
        if waiting:
            self._type()

    def _open(self, node: UUID) -> AbstractContextManager[Console]:
        power, bmc = bmc_of(self._parts, node)
        return power.console(bmc)

    def _is_free(self, row: ConsoleSession | None, dead: set[str]) -> bool:
        if row is None or row.worker is None or row.worker in dead:
            return True
        # There is no other process where the database is not shared; and one's own name outlives the process.
        return not self._parts.db.shared or row.worker == self._worker

    def _is_ours(self, row: ConsoleSession | None, line: Line) -> bool:
        return row is not None and row.worker == self._worker and row.claim == line.claim

    def _claim(self, nodes: set[UUID]) -> dict[UUID, int]:
        """Take sessions that are still free, and return the claims."""
        if not nodes:
            return {}
        claims = {}
        with self._parts.db.write() as session:
            dead = set(dead_workers(self._parts.db, session)) if self._parts.db.shared else set()
            rows = {row.node_id: row for row in session.scalars(select(ConsoleSession))}
            known = set(session.scalars(select(Node.id).where(Node.id.in_(nodes))))
            for node in known:
                row = rows.get(node)
                if not self._is_free(row, dead):
                    continue
                if row is None:
                    row = ConsoleSession(node_id=node, claim=0)
                    session.add(row)
                row.worker, row.claim, row.open, row.problem = self._worker, row.claim + 1, False, None
                claims[node] = row.claim
        return claims

    def _end(self, nodes: Sequence[UUID]) -> None:
        """Let go of consoles; what nodes said on them that is not stored yet is let go too."""
        lines = [self._lines.pop(node) for node in nodes]
        for line in lines:
            line.stop()
        if lines:
            with self._parts.db.write() as session:
                self._release(session, nodes)

    def _release(self, session: Session, nodes: Sequence[UUID]) -> None:
        mine = update(ConsoleSession).where(
            ConsoleSession.node_id.in_(nodes), ConsoleSession.worker == self._worker
        )
        session.execute(mine.values(worker=None, open=False, problem=None))

    # --- what is typed -------------------------------------------------------------------------------------

    def _type(self) -> None:
        """Type what waits for our nodes. It is taken out first: once at the most, never twice."""
        with self._parts.db.write() as session:
            rows = session.scalars(
                select(Typed).where(Typed.node_id.in_(list(self._lines))).order_by(Typed.id)
            ).all()
            owners = {
                row[0]: row[1]
                for row in session.execute(
                    select(Node.id, Node.project_id).where(Node.id.in_([row.node_id for row in rows]))
                )
            }
            session.execute(delete(Typed).where(Typed.id.in_([row.id for row in rows])))
            session.execute(delete(Typed).where(Typed.typed_at < now() - STALE))
        for row in rows:
            if row.typed_at < now() - STALE or owners.get(row.node_id) != row.project_id:
                continue
            try:
                self._lines[row.node_id].type(base64.b64decode(self._parts.vault.open(row.content)))
            except (BmiError, binascii.Error, KeyError) as error:
                log.warning(
                    "what was typed for node %s cannot be read: %s", row.node_id, type(error).__name__
                )

    # --- what was said -------------------------------------------------------------------------------------

    def _store(self) -> None:
        """Write down what our nodes said, and how their consoles are, in one transaction."""
        said = {node: words for node, line in self._lines.items() if (words := line.take())}
        news = {node: news for node, line in self._lines.items() if (news := line.news())}
        if not said and not news:
            return
        try:
            with self._parts.db.write() as session:
                ours = {
                    row.node_id: row
                    for row in session.scalars(
                        select(ConsoleSession).where(ConsoleSession.node_id.in_([*said, *news]))
                    )
                    if row.node_id in self._lines and self._is_ours(row, self._lines[row.node_id])
                }
                for node, (is_open, problem) in news.items():
                    if node in ours:
                        ours[node].open, ours[node].problem = is_open, problem
                for node, words in said.items():
                    if node in ours:
                        self._append(session, node, words)
        except BmiError:
            for node, words in said.items():
                self._lines[node].put_back(words)
            raise
        for node, status in news.items():
            self._lines[node].told(status)

    def _append(self, session: Session, node: UUID, words: Sequence[tuple[UUID, bytes]]) -> None:
        """Add to the recording in hand what belongs to it, as long as its project has the node."""
        owner = session.scalar(select(Node.project_id).where(Node.id == node))
        for id, piece in words:
            recording = session.get(Recording, id)
            if recording is None or recording.ended_at is not None or recording.project_id != owner:
                continue
            service.append(session, recording, piece, self._parts.settings.console.boot_size)
