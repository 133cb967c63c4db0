"""`bmi op`: long-running operations."""

from typing import Annotated

import typer

from bmi.api.operations import Operation, OperationState, StepState
from bmi.cli import apps, complete, options, output, progress
from bmi.cli.failures import Failure
from bmi.cli.session import connect
from bmi.client import OperationFailed

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
    limit: Annotated[
        int | None, typer.Option(min=1, help="How many at the most.", show_default="all")
    ] = None,
    json: options.Json = False,
) -> None:
    """List operations.

    \b
    Example:
      bmi op list --state running
    """
    with connect() as bmi:
        found = list(bmi.operations.list(state=state, node=node, limit=limit))
    if json:
        output.as_json(found)
        return
    output.table(
        ("ID", "VERB", "SUBJECT", "STATE", "STEP", "CREATED"),
        [(one.id, one.verb, one.subject, one.state, _step(one), one.created_at) for one in found],
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
            ("operation", f"{found.verb} of {found.subject}"),
            ("state", found.state),
            ("project", found.project),
            ("id", found.id),
            ("created", found.created_at),
            ("ended", found.ended_at),
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
    """Cancel an operation: what it did is undone.

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
            f"{ended.verb} of {ended.subject} had succeeded before it could be cancelled",
            next_step="undo it with another command if you want to",
        )
    if wait and not json:
        output.line(f"cancelled: {ended.verb} of {ended.subject}")


@app.command()
def events(operation: Id, json: options.Json = False) -> None:
    """Print what an operation does, a line for each step as it ends; with --json a line for each change.

    Ends with the operation, and like `bmi op wait` fails if that failed.
    """
    with connect() as bmi:
        told: dict[int, StepState] = {}
        for found in bmi.operations.follow(operation):
            if json:
                output.line(found.model_dump_json())
            else:
                for text in progress.new_lines(found, told):
                    output.line(text)
    if found.state is not OperationState.SUCCEEDED:
        raise OperationFailed(found)


def _step(operation: Operation) -> str | None:
    running = (step.name for step in operation.steps if step.state is StepState.RUNNING)
    return next(running, None)
