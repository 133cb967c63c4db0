"""`bmi audit`: who changed what, and who was refused."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from bmi.api.audit import Outcome
from bmi.cli import apps, options, output
from bmi.cli.failures import Failure
from bmi.cli.session import connect

app = apps.noun("Who changed what, from where, and who was refused.")

_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_TIME = "A time as 2026-01-31T12:00, in UTC unless it says another zone; or how long ago: 30m, 2h, 7d."

Until = Annotated[str | None, typer.Option(metavar="TIME", help="Only before this time.")]
By = Annotated[str | None, typer.Option(metavar="NAME", help="Only what this caller asked for.")]
With = Annotated[Outcome | None, typer.Option(help="Only what ended so.")]
InProject = Annotated[str | None, typer.Option(metavar="PROJECT", help="Only what concerned this project.")]


@app.command("list")
def list_(
    since: Annotated[str, typer.Option(metavar="TIME", help=_TIME)] = "1d",
    until: Until = None,
    caller: By = None,
    outcome: With = None,
    project: InProject = None,
    json: options.Json = False,
) -> None:
    """List what was changed and what was refused since yesterday, oldest first.

    \b
    Example:
      bmi audit list --since 7d --outcome refused
    """
    with connect() as bmi:
        found = list(
            bmi.audit.list(
                since=_time(since),
                until=_time(until) if until else None,
                caller=caller,
                outcome=outcome,
                project=project,
            )
        )
    if json:
        output.as_json(found)
        return
    output.table(
        ("AT", "CALLER", "FROM", "ACTION", "THING", "PROJECT", "OUTCOME"),
        [
            (
                f"{one.at.astimezone(UTC):%Y-%m-%d %H:%M:%S}",
                one.caller,
                one.address,
                one.action,
                one.thing or None,
                one.project,
                f"{one.outcome} ({one.status} {one.code})" if one.code else one.outcome,
            )
            for one in found
        ],
        empty="nothing was changed or refused",
    )


@app.command()
def export(
    since: Annotated[str | None, typer.Option(metavar="TIME", help=_TIME)] = None,
    until: Until = None,
    caller: By = None,
    outcome: With = None,
    project: InProject = None,
) -> None:
    """Print the whole trail as JSON lines, each as soon as it is there.

    \b
    Example:
      bmi audit export --since 2026-01-01 > audit.jsonl
    """
    with connect() as bmi:
        for one in bmi.audit.list(
            since=_time(since) if since else None,
            until=_time(until) if until else None,
            caller=caller,
            outcome=outcome,
            project=project,
        ):
            output.line(one.model_dump_json())


def _time(text: str) -> datetime:
    try:
        if ago := re.fullmatch(r"(\d{1,6})([mhd])", text, re.ASCII):
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        time = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise Failure(
            f"{text!r} is no time", next_step="write 2026-01-31T12:00, or 2h for two hours ago", status=2
        ) from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)
