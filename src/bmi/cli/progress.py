"""Waiting for an operation where a person can see it: step by step."""

from collections.abc import Iterator
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING

from bmi.api.operations import Operation, OperationState, Step, StepState
from bmi.cli import output
from bmi.cli.failures import Failure
from bmi.client import Client, OperationFailed, title

if TYPE_CHECKING:
    from rich.console import RenderableType

_MARKS = {StepState.DONE: "✓", StepState.FAILED: "✗", StepState.UNDONE: "↶"}
_TURNING = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
_REDRAWS = 8  # per second; enough for the seconds to run smoothly
_BAR = 24  # characters


def finish(bmi: Client, operation: Operation, *, wait: bool, json: bool) -> None:
    """Wait for an operation that was just started, and tell how it ended.

    Args:
        bmi: Where it runs.
        operation: The operation.
        wait: Whether to wait; else its id is printed.
        json: Print nothing but the operation as JSON.

    Raises:
        OperationFailed: It ended without success.
        Failure: The person no longer wants to wait.
    """
    if wait:
        operation = follow(bmi, operation, quiet=json)
    if json:
        output.as_json(operation)
    elif not wait:
        output.line(str(operation.id))
    if operation.state in (OperationState.FAILED, OperationState.CANCELLED):
        raise OperationFailed(operation)
    if wait and not json:
        _tell_success(operation)


def done(bmi: Client, operation: Operation, *, quiet: bool) -> Operation:
    """Follow an operation to its end, and return it once it has succeeded.

    Raises:
        OperationFailed: It has not.
    """
    ended = follow(bmi, operation, quiet=quiet)
    if ended.state is not OperationState.SUCCEEDED:
        raise OperationFailed(ended)
    return ended


def follow(bmi: Client, operation: Operation, *, quiet: bool = False) -> Operation:
    """Show an operation's steps until it has ended, and return it as it ended.

    Args:
        bmi: Where it runs.
        operation: The operation, as last seen.
        quiet: Show nothing.
    """
    changes = bmi.operations.follow(operation.id)
    try:
        if quiet:
            for operation in changes:  # noqa: B007
                pass
        elif output.terminal():
            operation = _show_live(operation, changes)
        else:
            operation = _show_lines(operation, changes)
    except KeyboardInterrupt:
        raise Failure(
            f"stopped waiting, the {title(operation)} goes on",
            next_step=f"follow it with `bmi op wait {operation.id}`, "
            f"or end it with `bmi op cancel {operation.id}`",
            status=130,
        ) from None
    return operation


def step_line(step: Step) -> str:
    """Return a step as one plain line."""
    words = (step.state.ljust(7), step.name.ljust(14), taken(step).rjust(10), output.clean(step.detail))
    return "  ".join(words).rstrip()


def taken(step: Step) -> str:
    """Return how long a step took, or has been running."""
    return output.seconds(_span(step.started_at, step.ended_at))


def new_lines(operation: Operation, told: dict[int, StepState]) -> Iterator[str]:
    """Return a line for each step that has come to an end, or was undone, since the last call.

    Args:
        operation: The operation now.
        told: What was told of which step; brought up to date.
    """
    for index, step in enumerate(operation.steps):
        if step.state is not StepState.RUNNING and told.get(index) is not step.state:
            told[index] = step.state
            yield step_line(step)


def _span(start: datetime, end: datetime | None) -> float:
    return max(0.0, ((end or datetime.now(UTC)) - start).total_seconds())


def _tell_success(operation: Operation) -> None:
    span = ""
    if operation.ended_at is not None:
        span = (
            f" in {output.seconds(_span(operation.started_at or operation.created_at, operation.ended_at))}"
        )
    output.line(f"{output.styled('done', fg='green', bold=True)}: {title(operation)}{span}")
    shown = [(key.replace("_", " "), value) for key, value in operation.result.items() if value is not None]
    if plain := [(f"  {key}", value) for key, value in shown if isinstance(value, str | int | float)]:
        output.fields(plain)


def _show_lines(operation: Operation, changes: Iterator[Operation]) -> Operation:
    output.line(f"{title(operation)} (operation {operation.id})")
    told: dict[int, StepState] = {}
    for operation in changes:
        for text in new_lines(operation, told):
            output.line(text)
    return operation


def _show_live(operation: Operation, changes: Iterator[Operation]) -> Operation:
    from rich.console import Console
    from rich.live import Live

    latest = operation

    def render() -> "RenderableType":
        return _drawn(latest)

    with Live(get_renderable=render, console=Console(highlight=False), refresh_per_second=_REDRAWS):
        for latest in changes:  # noqa: B007
            pass
    return latest


def _drawn(operation: Operation) -> "RenderableType":
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    head = Text.assemble((title(operation), "bold"), (f"  {operation.id}", "dim"))
    steps = Table.grid(padding=(0, 2, 0, 0))
    for step in operation.steps:
        mark = _MARKS.get(step.state) or _TURNING[int(monotonic() * _REDRAWS) % len(_TURNING)]
        detail: RenderableType = Text(output.clean(step.detail), overflow="fold")
        if step.state is StepState.RUNNING and step.progress is not None:
            bar = ProgressBar(total=1.0, completed=step.progress, width=_BAR, complete_style="green")
            detail = Table.grid(padding=(0, 1, 0, 0))
            detail.add_row(bar, Text(f"{step.progress:4.0%}"), Text(output.clean(step.detail)))
        steps.add_row(
            Text(mark, style=output.coloured(step.state)),
            Text(step.name),
            Text(taken(step), style="dim", justify="right"),
            detail,
        )
    if not operation.steps:
        steps.add_row(Text(f"{operation.state} ...", style=output.coloured(operation.state)))
    return Group(head, steps)
