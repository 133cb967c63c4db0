"""`bmi doctor`: what really exists, compared with what should, and mending it."""

from collections.abc import Sequence
from typing import Annotated

import typer

from bmi.api.doctor import Finding, Repaired, Report, Severity
from bmi.cli import apps, options, output
from bmi.cli.failures import Failure
from bmi.cli.session import connect

app = apps.single()


@app.command()
def doctor(
    repair: Annotated[
        bool, typer.Option("--repair", help="Mend what can be mended, and look again.")
    ] = False,
    remove_orphans: Annotated[
        bool,
        typer.Option(
            "--remove-orphans",
            help="With --repair: remove volumes that nothing refers to, with what they hold.",
        ),
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Do not ask the networks for foreign DHCP servers, which takes 4 s."),
    ] = False,
    json: options.Json = False,
) -> None:
    """Compare what really exists with what should; fails if errors are left, not for warnings.

    \b
    Example:
      bmi doctor --repair
    """
    if remove_orphans and not repair:
        raise typer.BadParameter("--remove-orphans goes with --repair")
    if quick and repair:
        raise typer.BadParameter("--repair looks at everything, leave --quick out")
    with connect() as bmi:
        report = bmi.repair(remove_orphans=remove_orphans) if repair else bmi.doctor(quick=quick)
    if json:
        output.as_json(report)
    else:
        _show(report)
    if errors := report.errors:
        raise Failure(
            f"{len(errors)} {'error is' if len(errors) == 1 else 'errors are'} {'left' if repair else 'found'}",
            next_step=_next_step(errors, repair=repair),
        )
    if not json and not report.findings:
        output.line("\nall is as it should be")


def _show(report: Report) -> None:
    counted = report.inventory.model_dump()
    output.fields((name.replace("_", " "), count) for name, count in counted.items())
    if isinstance(report, Repaired):
        output.line("\nDone")
        for line in report.done:
            output.line(f"  {output.clean(line)}")
        _table("Mended", report.mended)
    for severity, title in ((Severity.ERROR, "Errors"), (Severity.WARNING, "Warnings")):
        found = [finding for finding in report.findings if finding.severity is severity]
        _table(title, found, next_steps=True)


def _table(title: str, findings: Sequence[Finding], *, next_steps: bool = False) -> None:
    if not findings:
        return
    output.line(f"\n{title}")
    rows = [(found.code, found.thing, found.message, found.next_step) for found in findings]
    headings = ("CODE", "THING", "WHAT IS WRONG", "NEXT STEP")
    columns = len(headings) if next_steps else len(headings) - 1
    output.table(headings[:columns], [row[:columns] for row in rows], empty="")


def _next_step(errors: Sequence[Finding], *, repair: bool) -> str:
    if repair:
        return "see the next step of each"
    mendable = sum(finding.repairable for finding in errors)
    return f"bmi doctor --repair mends {mendable} of them" if mendable else "see the next step of each"
