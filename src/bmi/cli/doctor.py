"""`bmi doctor`: what really exists, compared with what should."""

from bmi.cli import apps, options, output
from bmi.cli.failures import Failure
from bmi.cli.session import connect

app = apps.single()


@app.command()
def doctor(json: options.Json = False) -> None:
    """Compare what really exists with what should; fails if something differs."""
    with connect() as bmi:
        report = bmi.doctor()
    if json:
        output.as_json(report)
    else:
        counted = report.inventory.model_dump()
        output.fields((name.replace("_", " "), count) for name, count in counted.items())
        if report.findings:
            output.line()
            output.table(
                ("FINDING", "FAMILY", "THING", "MESSAGE"),
                [
                    (finding.kind, finding.family, finding.thing, finding.message)
                    for finding in report.findings
                ],
                empty="",
            )
    if report.findings:
        number = len(report.findings)
        raise Failure(
            f"{number} {'thing differs' if number == 1 else 'things differ'} from what should be",
            next_step="look again in a minute: the service repairs what it may",
        )
    if not json:
        output.line("\nall is as it should be")
