"""Runs operations durably: what was begun ends done or undone, whatever dies.

The only file that imports dbos.

Five rules, each from something measured with DBOS 3.4:

1. Payloads are JSON, never pickle: they outlive the code that wrote them.
2. Cancelling is our own flag, looked at inside each step. DBOS's own cancel makes every later step raise, the
   undoing ones too.
3. A process that comes back takes up its own workflows; an executor is therefore named after its worker. Those of
   a worker that does not come back are taken up by another one (`bmi.provisioning.workers`).
4. The application version is fixed per release; by default it is a digest of the source, and workflows in
   flight would stay behind after an upgrade.
5. Workflow ids are the operations' ids, which are time-ordered.

What a step returns is recorded, failures too, as plain JSON. So a workflow that is taken up again meets
exactly what it met before, up to the step that was interrupted, which runs again: steps are at-least-once.

What must not be recorded (this process ends, or has lost the operation) leaves as a `BaseException`, which DBOS
lets pass: the workflow stays as it is, to be taken up.
"""

import contextlib
import itertools
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID
from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.api.common import Problem
from bmi.api.operations import Ending, StepState
from bmi.errors import BmiError, Cancelled, DatabaseUnavailable, WrongState
from bmi.parts import Parts
from bmi.problems import problem
from bmi.provisioning.journal import Abandoned, Interrupted, Journal, Settle, TakenOver
from bmi.provisioning.models import Operation

log = logging.getLogger(__name__)

ATTEMPTS = 4  # how often a step is tried whose failure may pass
FIRST_PAUSE = 0.5  # seconds before the second try; doubled before each further one
LONGEST_PAUSE = 5.0  # seconds
THREADS = 64  # operations that one worker carries out at a time

_TELL_AGAIN = 30.0  # seconds between two events about the same failure
_VERSION = "1"  # raised when a release changes the steps of a workflow
_POLL = 0.05  # seconds between two looks at the cancel flag during a pause
_NOTIFICATIONS = 0.05  # seconds between two looks of DBOS at notifications in SQLite
_LEAVE = 5.0  # seconds that steps get to end by themselves when the process is to end

Again = Callable[[Session, Parts, Caller, Operation], Operation]
"""Asks once more for what an operation did not bring about."""


@dataclass(frozen=True)
class Workflow:
    """How a verb is carried out."""

    run: Callable[["Run"], None]
    settle: Settle
    again: Again


WORKFLOWS: dict[str, Workflow] = {}


def workflow(
    verb: str, *, settle: Settle, again: Again
) -> Callable[[Callable[["Run"], None]], Callable[["Run"], None]]:
    """Register a function as the workflow of a verb.

    Args:
        verb: The operation's verb, such as `node.provision`.
        settle: Writes how things stand once the operation has ended.
        again: Asks for it once more, after it has ended without success.
    """

    def register(function: Callable[["Run"], None]) -> Callable[["Run"], None]:
        WORKFLOWS[verb] = Workflow(function, settle, again)
        return function

    return register


class StepFailed(Exception):
    """A step of a workflow failed for good; carries the problem as it was recorded."""

    def __init__(self, step: str, cause: Problem, *, stands: bool = False) -> None:
        super().__init__(f"{step}: {cause.detail}")
        self.step = step
        self.cause = cause
        self.stands = stands and cause.code != Cancelled.code


class NotUndone(Exception):
    """A workflow failed, and undoing failed too; carries the first problem and the undoing's."""

    def __init__(self, first: StepFailed, undoing: StepFailed) -> None:
        super().__init__(str(first))
        self.first = first
        self.undoing = undoing


@dataclass
class Run:
    """What a workflow works with: the request, the parts, and durable steps."""

    operation: Operation
    parts: Parts
    journal: Journal
    result: dict[str, object] = field(default_factory=dict)
    undone: bool = False
    """Whether a failure was followed by undoing everything."""
    next_step_of_cancelled: str = "nothing, it is undone"
    """What to do after it was cancelled."""
    _undo: list[tuple[str, Callable[[], str | None]]] = field(default_factory=list)

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for, as it was written down."""
        return self.operation.request

    def step(
        self,
        name: str,
        do: Callable[[], str | None],
        *,
        undo: Callable[[], str | None] | None = None,
        stands: bool = False,
    ) -> None:
        """Do something durably.

        Args:
            name: What stands on the operation's list; unique in the workflow.
            do: Idempotent; tried again when its failure may pass. Returns a line for people, or nothing.
            undo: Takes it back, also when it was done by half or not at all; idempotent.
            stands: Whether its failure leaves everything as it is, for a person to look at.

        Raises:
            StepFailed: It failed for good, or the operation is to be cancelled.
        """
        if undo:
            self._undo.append((name, undo))
        self._durably(
            name, lambda: self._carry_out(name, do, StepState.DONE, cancellable=True), stands=stands
        )

    def remember(self, **facts: Any) -> None:
        """Keep in `request` how something was before a step changes it; the first time counts."""
        self.operation.request = self.journal.remember(facts)

    def progress(self, step: str, detail: str, fraction: float) -> None:
        """Tell how far a step is; `fraction` goes from 0 to 1."""
        self.journal.progress(step, detail, fraction)

    def stop_if_cancelled(self) -> None:
        """Give up, inside a step that takes long, when the operation is to be cancelled.

        Raises:
            Cancelled: It is.
            Interrupted: This process is to end; the next one goes on.
        """
        self._stop_if_ending()
        if self.journal.cancelling():
            raise Cancelled(f"{self.operation.verb} was cancelled", next_step=self.next_step_of_cancelled)

    def _stop_if_ending(self) -> None:
        if _Current.ending.is_set():
            raise Interrupted(str(self.operation.id))

    @contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Undo the steps inside, last first, when one of them fails.

        Raises:
            StepFailed: A step failed, and everything is undone.
            NotUndone: A step failed, and undoing failed too.
        """
        try:
            yield
        except StepFailed as failure:
            if failure.stands:
                raise
            stuck = self._undo_all()
            if stuck:
                raise NotUndone(failure, stuck) from failure
            self.undone = True
            raise
        self._undo.clear()

    def _undo_all(self) -> StepFailed | None:
        stuck: StepFailed | None = None
        for name, undo in reversed(self._undo):
            try:
                self._durably(
                    f"undo {name}",
                    lambda name=name, undo=undo: self._carry_out(  # type: ignore[misc]
                        name, undo, StepState.UNDONE, cancellable=False
                    ),
                )
            except StepFailed as failure:
                stuck = stuck or failure
        self._undo.clear()
        return stuck

    def _durably(
        self, name: str, carry_out: Callable[[], dict[str, Any] | None], *, stands: bool = False
    ) -> None:
        def recordable() -> dict[str, Any] | None:
            try:
                return carry_out()
            except Exception as error:
                # What the step met is returned, so this is the journal's trouble. Recorded, it would come back
                # for ever.
                raise Abandoned(
                    f"{self.operation.id}: step {name} cannot be written down: {error}"
                ) from error

        try:
            recorded = DBOS.run_step({"name": name}, recordable)
        except Exception as error:
            raise Abandoned(f"{self.operation.id}: step {name} cannot be recorded: {error}") from error
        if recorded is not None:
            raise StepFailed(name, Problem.model_validate(recorded), stands=stands)

    def _carry_out(
        self, name: str, do: Callable[[], str | None], done: StepState, *, cancellable: bool
    ) -> dict[str, Any] | None:
        """Run a step, with its tries, and return its problem if it has one."""
        try:
            if cancellable:
                self.stop_if_cancelled()
            self._stop_if_ending()
            self.journal.step_begun(name)
            detail = self._persistently(name, do, cancellable=cancellable)
        except Exception as error:
            self._stop_if_ending()  # what fails because the process ends has not failed
            if not isinstance(error, BmiError):
                log.exception("operation %s, step %s", self.operation.id, name)
            cause = problem(error)
            self.journal.step_ended(name, StepState.FAILED, f"{cause.detail}; {cause.next_step}")
            return cause.model_dump()
        self.journal.step_ended(name, done, detail or "")
        return None

    def _persistently(self, name: str, do: Callable[[], str | None], *, cancellable: bool) -> str | None:
        """Try a step again as long as its failure may pass: a few times, or for as long as the error says."""
        begun, told, pause = time.monotonic(), -_TELL_AGAIN, FIRST_PAUSE
        for attempt in itertools.count(1):
            try:
                return do()
            except BmiError as error:
                waited = time.monotonic() - begun
                self._stop_if_ending()
                if not error.transient or (attempt >= ATTEMPTS and waited >= error.patience):
                    raise
                if attempt < ATTEMPTS or waited - told >= _TELL_AGAIN:
                    told = waited
                    self.journal.note("operation.retry", _retry(name, error, waited, pause))
            end = time.monotonic() + pause
            while time.monotonic() < end:
                if cancellable:
                    self.stop_if_cancelled()
                else:
                    self._stop_if_ending()
                time.sleep(_POLL)
            pause = min(2 * pause, LONGEST_PAUSE)
        raise AssertionError("the last attempt returns or raises")


def _retry(step: str, error: BmiError, waited: float, pause: float) -> str:
    if error.patience > waited:
        return f"{step}: {error.message}; waiting for it, {error.patience - waited:.0f} s more at the most"
    return f"{step}: {error.message}; trying again in {pause:g} s"


class Engine:
    """Carries operations out in this process. Which ones is decided by `bmi.provisioning.workers`."""

    def __init__(self, parts: Parts, worker: str) -> None:
        """Get ready.

        Args:
            parts: What workflows work with.
            worker: Name of this process, the same when it comes back, and no other's.
        """
        _Current.parts, _Current.worker = parts, worker
        _Current.ending, _Current.active, _Current.dropped = threading.Event(), set(), set()
        self._worker = worker
        config: DBOSConfig = {
            "name": "bmi",
            "system_database_url": _url(parts),
            "application_version": _VERSION,
            "executor_id": worker,
            "serializer": DBOSPortableJSONSerializer(),
            "max_executor_threads": THREADS,
            "enable_otlp": False,
            "log_level": "WARNING",
            # No workflow waits for notifications; closing waits for the thread that looks for them in SQLite.
            "notification_listener_polling_interval_sec": _NOTIFICATIONS,
        }
        DBOS(config=config)

    def launch(self) -> None:
        """Begin to work: take up what this worker left when it ended."""
        DBOS.launch()

    def begin(self, operation: UUID) -> None:
        """Carry out an operation that this worker has claimed, or go on with it where it was left.

        Which of the two does not matter: a workflow that there is already is not started a second time.
        """
        try:
            if DBOS.get_workflow_status(str(operation)) is None:
                with SetWorkflowID(str(operation)):
                    DBOS.start_workflow(_carry_out_operation, str(operation))
            else:
                DBOS.resume_workflow(str(operation))
        except Exception:
            _Current.dropped.add(operation)
            raise

    def knows(self, operation: UUID) -> bool:
        """Say whether this worker has begun an operation, or will take it up by itself."""
        if operation in _Current.active:
            return True
        found = DBOS.get_workflow_status(str(operation))
        return found is not None and found.executor_id == self._worker

    def begin_dropped(self) -> None:
        """Go on with what this worker had to let go, because it could not be written down how it went."""
        for operation in list(_Current.dropped):
            _Current.dropped.discard(operation)
            self.begin(operation)

    def close(self) -> None:
        """Stop; what runs is taken up by the next process, or by another worker.

        Steps get a moment to end by themselves; one that takes longer runs again.
        """
        _Current.ending.set()
        end = time.monotonic() + _LEAVE
        while _Current.active and time.monotonic() < end:
            time.sleep(_POLL)
        DBOS.destroy()


class _Current:
    """The parts and the name of this process; DBOS calls workflows by name and cannot pass them."""

    parts: Parts
    worker: str
    ending: threading.Event
    """Set once the process is to end."""
    active: set[UUID]
    """Operations that are being carried out here."""
    dropped: set[UUID]
    """Operations that are still this worker's, and that it does not carry out."""


@DBOS.workflow(name="operation", max_recovery_attempts=None)
def _carry_out_operation(id: str) -> None:
    active = _Current.active
    active.add(UUID(id))
    try:
        _carry_out(Journal(_Current.parts.db, UUID(id)))
    except (TakenOver, Interrupted) as why:
        log.warning("operation %s is not carried out here any more: %s", id, type(why).__name__)
        raise
    except (Abandoned, Exception) as error:
        # A workflow that DBOS took for ended would never be taken up again.
        log.exception("operation %s has to wait", id)
        _Current.dropped.add(UUID(id))
        raise Abandoned(id) from error
    finally:
        active.discard(UUID(id))


def _carry_out(journal: Journal) -> None:
    """Carry an operation out, from its beginning or from where it was left, and write down how it ended."""
    operation = journal.begin(_Current.worker)
    if operation.ended_at is not None:
        return
    how = WORKFLOWS[operation.verb]
    run = Run(operation, _Current.parts, journal)
    cause: Problem | None = None
    try:
        how.run(run)
    except StepFailed as failure:
        ending, cause = (Ending.UNDONE if run.undone else Ending.STANDING), failure.cause
    except NotUndone as failure:
        ending, cause = Ending.STUCK, _stuck(failure)
    except DatabaseUnavailable:
        raise  # between two steps; inside of one it is that step's failure
    except Exception as error:
        if _Current.ending.is_set():
            raise Interrupted(str(operation.id)) from error
        log.exception("operation %s", operation.id)
        ending, cause = Ending.STANDING, problem(error)
    else:
        ending = Ending.SUCCEEDED
    try:
        journal.end(ending, cause, run.result, how.settle)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        # It ends all the same, so that a person can go on: what it is about stays as it is.
        log.exception("operation %s cannot be settled", operation.id)
        journal.end(Ending.STUCK, cause or problem(error), run.result, lambda *_: None)


def _stuck(failure: NotUndone) -> Problem:
    first, undoing = failure.first.cause, failure.undoing.cause
    return first.model_copy(
        update={
            "detail": f"{first.detail}; then {failure.undoing.step} failed: {undoing.detail}",
            "next_step": undoing.next_step,
        }
    )


def ask_again(session: Session, parts: Parts, caller: Caller, operation: Operation) -> Operation:
    """Ask once more for what an operation did not bring about.

    Raises:
        WrongState: It is not one that has ended without success, or this release cannot repeat it.
    """
    how = WORKFLOWS.get(operation.verb)
    if how is None:
        raise WrongState(
            f"this release does not know {operation.verb}",
            next_step="ask for what you want with its own command",
        )
    return how.again(session, parts, caller, operation)


def _url(parts: Parts) -> str:
    """Return where DBOS keeps its records.

    On PostgreSQL in a schema of its own, `dbos`, of the same database. On SQLite beside our own tables, not
    among them: each file has one writer at a time.
    """
    if not parts.db.sqlite:
        return parts.db.url.render_as_string(hide_password=False)
    file = parts.settings.state_dir / "engine.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        # The file remembers it; DBOS's own default journal costs several times the disk flushes.
        connection.execute("PRAGMA journal_mode=WAL")
    return f"sqlite:///{file}"
