"""Runs operations durably: what was begun ends done or undone, whatever dies.

The only file that imports dbos.

Five rules, each from something measured with DBOS 3.4:

1. Payloads are JSON, never pickle: they outlive the code that wrote them.
2. Cancelling is our own flag, looked at inside each step. DBOS's own cancel makes every later step raise, the
   undoing ones too.
3. A process that comes back takes up its own workflows; the executor's name is therefore fixed.
4. The application version is fixed per release; by default it is a digest of the source, and workflows in
   flight would stay behind after an upgrade.
5. Workflow ids are the operations' ids, which are time-ordered.

What a step returns is recorded, failures too, as plain JSON. So a workflow that is taken up again meets
exactly what it met before, up to the step that was interrupted, which runs again: steps are at-least-once.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from dbos import DBOS, DBOSConfig, DBOSPortableJSONSerializer, SetWorkflowID
from sqlalchemy import select

from bmi.api.common import Problem
from bmi.api.operations import OperationState, StepState
from bmi.errors import BmiError, Cancelled
from bmi.parts import Parts
from bmi.provisioning.journal import Ending, Journal, Settle, problem
from bmi.provisioning.models import Operation

log = logging.getLogger(__name__)

ATTEMPTS = 4  # how often a step is tried whose failure may pass
FIRST_PAUSE = 0.5  # seconds before the second try; doubled before each further one

_EXECUTOR = "bmi"
_VERSION = "1"  # raised when a release changes the steps of a workflow
_POLL = 0.05  # seconds between two looks at the cancel flag during a pause
_THREADS = 64


@dataclass(frozen=True)
class Workflow:
    """How a verb is carried out."""

    run: Callable[["Run"], None]
    settle: Settle
    cancellable: bool


WORKFLOWS: dict[str, Workflow] = {}


def workflow(
    verb: str, *, settle: Settle, cancellable: bool = True
) -> Callable[[Callable[["Run"], None]], Callable[["Run"], None]]:
    """Register a function as the workflow of a verb.

    Args:
        verb: The operation's verb, such as `node.provision`.
        settle: Writes how things stand once the operation has ended.
        cancellable: Whether it can be undone half-way; one that goes forward only cannot.
    """

    def register(function: Callable[["Run"], None]) -> Callable[["Run"], None]:
        WORKFLOWS[verb] = Workflow(function, settle, cancellable)
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

    def progress(self, step: str, detail: str, fraction: float) -> None:
        """Tell how far a step is; `fraction` goes from 0 to 1."""
        self.journal.progress(step, detail, fraction)

    def stop_if_cancelled(self) -> None:
        """Give up, inside a step that takes long, when the operation is to be cancelled.

        Raises:
            Cancelled: It is.
        """
        if WORKFLOWS[self.operation.verb].cancellable and self.journal.cancelling():
            raise Cancelled(f"{self.operation.verb} was cancelled", next_step="nothing, it is undone")

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
        recorded = DBOS.run_step({"name": name}, carry_out)
        if recorded is not None:
            raise StepFailed(name, Problem.model_validate(recorded), stands=stands)

    def _carry_out(
        self, name: str, do: Callable[[], str | None], done: StepState, *, cancellable: bool
    ) -> dict[str, Any] | None:
        """Run a step, with its tries, and return its problem if it has one."""
        try:
            if cancellable:
                self.stop_if_cancelled()
            self.journal.step_begun(name)
            detail = self._persistently(name, do, cancellable=cancellable)
        except Exception as error:
            if not isinstance(error, BmiError):
                log.exception("operation %s, step %s", self.operation.id, name)
            cause = problem(error)
            self.journal.step_ended(name, StepState.FAILED, f"{cause.detail}; {cause.next_step}")
            return cause.model_dump()
        self.journal.step_ended(name, done, detail or "")
        return None

    def _persistently(self, name: str, do: Callable[[], str | None], *, cancellable: bool) -> str | None:
        pause = FIRST_PAUSE
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return do()
            except BmiError as error:
                if not error.transient or attempt == ATTEMPTS:
                    raise
                self.journal.note("operation.retry", f"{name}: {error.message}; trying again in {pause:g} s")
            end = time.monotonic() + pause
            while time.monotonic() < end:
                if cancellable:
                    self.stop_if_cancelled()
                time.sleep(_POLL)
            pause *= 2
        raise AssertionError("the last attempt returns or raises")


class Engine:
    """Starts operations, and takes up those that an earlier process left."""

    def __init__(self, parts: Parts) -> None:
        _Current.parts = parts
        self._db = parts.db
        config: DBOSConfig = {
            "name": "bmi",
            "system_database_url": _url(parts),
            "application_version": _VERSION,
            "executor_id": _EXECUTOR,
            "serializer": DBOSPortableJSONSerializer(),
            "max_executor_threads": _THREADS,
            "enable_otlp": False,
            "log_level": "WARNING",
        }
        DBOS(config=config)

    def launch(self) -> None:
        """Begin to work: take up what was interrupted, start what was asked for and never begun."""
        DBOS.launch()
        with self._db.read() as session:
            running = list(session.scalars(select(Operation.id).where(Operation.ended_at.is_(None))))
        for id in running:
            if DBOS.get_workflow_status(str(id)) is None:
                self.start(id)

    def start(self, operation: UUID) -> None:
        """Begin to carry out an operation whose row is committed."""
        with SetWorkflowID(str(operation)):
            DBOS.start_workflow(_carry_out_operation, str(operation))

    def close(self) -> None:
        """Stop; what runs is taken up by the next process."""
        DBOS.destroy()


class _Current:
    """The parts of this process; DBOS calls workflows by name and cannot pass them."""

    parts: Parts


@DBOS.workflow(name="operation", max_recovery_attempts=None)
def _carry_out_operation(id: str) -> None:
    parts = _Current.parts
    journal = Journal(parts.db, UUID(id))
    operation = journal.begin()
    if operation.ended_at is not None:
        return
    how = WORKFLOWS[operation.verb]
    run = Run(operation, parts, journal)
    try:
        how.run(run)
    except StepFailed as failure:
        ending, cause = (Ending.UNDONE if run.undone else Ending.STANDING), failure.cause
    except NotUndone as failure:
        ending, cause = Ending.STUCK, _stuck(failure)
    except Exception as error:
        log.exception("operation %s", id)
        ending, cause = Ending.STANDING, problem(error)
    else:
        journal.end(Ending.SUCCEEDED, None, run.result, how.settle)
        return
    journal.end(ending, cause, run.result, how.settle)


def _stuck(failure: NotUndone) -> Problem:
    first, undoing = failure.first.cause, failure.undoing.cause
    return first.model_copy(
        update={
            "detail": f"{first.detail}; then {failure.undoing.step} failed: {undoing.detail}",
            "next_step": undoing.next_step,
        }
    )


def cancellable(verb: str) -> bool:
    """Say whether operations of this verb can be cancelled."""
    return WORKFLOWS[verb].cancellable


def running(state: OperationState) -> bool:
    """Say whether an operation in this state can still be cancelled."""
    return state in (OperationState.QUEUED, OperationState.RUNNING)


def _url(parts: Parts) -> str:
    """Return where DBOS keeps its records.

    On SQLite beside our own tables, not among them: each file has one writer at a time.
    """
    url = parts.settings.database_url
    if not url.startswith("sqlite"):
        return url
    file = parts.settings.state_dir / "engine.db"
    with contextlib.closing(sqlite3.connect(file)) as connection:
        # The file remembers it; DBOS's own default journal costs several times the disk flushes.
        connection.execute("PRAGMA journal_mode=WAL")
    return f"sqlite:///{file}"
