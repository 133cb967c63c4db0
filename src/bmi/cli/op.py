"""`bmi op`: long-running operations."""

from collections import deque
from typing import Annotated

import typer

from bmi.api.operations import Ending, Operation, OperationState, StepState
from bmi.cli import apps, complete, options, output, progress, timeline
from bmi.cli.failures import Failure
from bmi.cli.session import connect
from bmi.client import OperationFailed, title

app = apps.noun("Long-running operations.")

Id = Annotated[
    str, typer.Argument(help="The operation's id.", metavar="OPERATION", autocompletion=complete.operations)
]


@app.command("list")
def list_(
    state: Annotated[OperationState | None, typer.Option(help="Only those in this state.")] = None,
    node: Annotated[
        str | None,
        typer.Option(metavar="NODE", help="Only those on this node.", autocompletion=complete.nodes),
    ] = None,
    last: timeline.Last = None,
    json: options.Json = False,
) -> None:
    """List operations, oldest first.

    \b
    Example:
      bmi op list --state failed --last 5
    """
    with connect() as bmi:
        found = list(deque(bmi.operations.list(state=state, node=node), maxlen=last))
    if json:
        output.as_json(found)
        return
    output.table(
        ("ID", "WHAT", "STATE", "STEP", "AGE"),
        [(one.id, title(one), one.state, _step(one), output.age(one.created_at)) for one in found],
        empty="there are no such operations",
    )


@app.command()
def show(operation: Id, json: options.Json = False) -> None:
    """Show an operation: its steps, how long they took, its error or result."""
    with connect() as bmi:
        found = bmi.operations.get(operation)
    if json:
        output.as_json(found)
        return
    error = found.error
    output.fields(
        (
            ("operation", title(found)),
            ("state", found.state),
            ("project", found.project),
            ("id", found.id),
            ("created", found.created_at),
            ("ended", found.ended_at),
            ("left", found.ending and _LEFT[found.ending]),
            ("retry of", found.retry_of),
            ("error", error and error.detail),
            ("next step", error and (error.next_step or None)),
            *((key.replace("_", " "), value) for key, value in found.result.items()),
        )
    )
    if found.steps:
        output.line()
        output.table(
            ("STEP", "STATE", "TOOK", "DETAIL"),
            [(step.name, step.state, progress.taken(step), step.detail or None) for step in found.steps],
            empty="",
        )


@app.command()
def wait(operation: Id, json: options.Json = False) -> None:
    """Wait until an operation has ended, showing its steps; fails if it failed."""
    with connect() as bmi:
        progress.finish(bmi, bmi.operations.get(operation), wait=True, json=json)


@app.command()
def cancel(operation: Id, wait: options.Wait = True, json: options.Json = False) -> None:
    """Cancel an operation: what it did is undone, or where it only goes forward, it stays where it is.

    \b
    Example:
      bmi op cancel 0199c5d2-7d1c-7a55-9a43-0c8f1d2e3f40 --no-wait
    """
    with connect() as bmi:
        asked = bmi.operations.cancel(operation)
        ended = progress.follow(bmi, asked, quiet=json) if wait else asked
    if json:
        output.as_json(ended)
    elif not wait:
        output.line(str(ended.id))
    if ended.state is OperationState.FAILED:
        raise OperationFailed(ended)
    if ended.state is OperationState.SUCCEEDED:
        raise Failure(
            f"{title(ended)} had succeeded before it could be cancelled",
            next_step="undo it with another command if you want to",
        )
    if wait and not json:
        output.line(f"cancelled: {title(ended)}")


@app.command()
def retry(operation: Id, wait: options.Wait = True, json: options.Json = False) -> None:
    """Try again what an operation did not bring about, as a new operation.

    What the first try left standing is used; what it undid is done anew.

    \b
    Example:
      bmi op retry 0199c5d2-7d1c-7a55-9a43-0c8f1d2e3f40
    """
    with connect() as bmi:
        progress.finish(bmi, bmi.operations.retry(operation), wait=wait, json=json)


@app.command()
def events(
    operation: Id, follow: timeline.Follow = False, last: timeline.Last = None, json: options.Json = False
) -> None:
    """Show an operation's timeline.

    \b
    Example:
      bmi op events 0199c5d2-7d1c-7a55-9a43-0c8f1d2e3f40 --follow
    """
    with connect() as bmi:
        if follow:
            timeline.print_as_they_come(bmi.operations.follow_events(operation), json=json)
        else:
            timeline.print_all(bmi.operations.events(operation), last=last, json=json)


_LEFT = {
    Ending.SUCCEEDED: None,
    Ending.UNDONE: "everything as it was before",
    Ending.STANDING: "what was done until then; bmi op retry goes on",
    Ending.STUCK: "some of what it did, which could not be undone; bmi op retry goes on",
}


def _step(operation: Operation) -> str | None:
    running = (step.name for step in operation.steps if step.state is StepState.RUNNING)
    return next(running, None)
