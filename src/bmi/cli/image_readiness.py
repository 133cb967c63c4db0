"""`bmi image check` and `bmi image prepare`."""

from typing import Annotated

import typer

from bmi.api.readiness import ImagePrepare, Readiness, Report
from bmi.cli import apps, complete, options, output
from bmi.cli.failures import Failure
from bmi.cli.progress import done, finish
from bmi.cli.session import connect

app = apps.single()

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="IMAGE", autocompletion=complete.images)]


@app.command()
def check(
    image: Name,
    last: Annotated[
        bool, typer.Option("--last", help="Show what the last check found, without looking again.")
    ] = False,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """Look into an image: can it boot over iSCSI, and if not, why; fails if something blocks.

    \b
    Example:
      bmi image check debian
    """
    with connect(project) as bmi:
        if not last:
            done(bmi, bmi.readiness.check(image), quiet=json)
        found = bmi.readiness.get(image)
    if found.report is None:
        raise Failure(
            f"image {found.image} was never checked", next_step=f"look into it: bmi image check {found.image}"
        )
    if json:
        output.as_json(found)
    else:
        _show(found, found.report)
    if found.report.blocked:
        raise Failure(f"image {found.image} does not boot over iSCSI", next_step=_next_step(found))


def _show(found: Readiness, report: Report) -> None:
    output.line(f"{found.image}: {report.system or 'no operating system'}")
    output.table(
        ("SEVERITY", "CODE", "WHAT", "NEXT STEP"),
        [(each.severity, each.code, each.message, each.next_step) for each in report.findings],
        empty="nothing is wrong: it boots over iSCSI",
    )


def _next_step(found: Readiness) -> str:
    return f"have it made ready, where that can be done: bmi image prepare {found.image}"


@app.command()
def prepare(
    image: Name,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the new image; the old one's with -prepared if absent."),
    ] = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a new image from an image, ready for network boot; the one that is there stays as it is.

    \b
    Example:
      bmi image prepare cloud --name cloud-iscsi
    """
    with connect(project) as bmi:
        operation = bmi.readiness.prepare(image, ImagePrepare(name=name))
        finish(bmi, operation, wait=wait, json=json)
        if not wait or json:
            return
        found = bmi.readiness.get(str(operation.result["image_id"]))
    for change in found.changes or ["nothing had to be changed"]:
        output.line(f"  {change}")
