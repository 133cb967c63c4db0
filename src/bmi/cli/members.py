"""`bmi members`: the processes of the installation, and which of them live."""

from bmi.cli import apps, options, output
from bmi.cli.session import connect

app = apps.single()


@app.command()
def members(json: options.Json = False) -> None:
    """List gateways and workers: which live, how much they carry, who acts for whom."""
    with connect() as bmi:
        found = list(bmi.members.list())
    if json:
        output.as_json(found)
        return
    output.table(
        ("ROLE", "NAME", "STATE", "LOAD", "LAST SEEN"),
        [
            (
                member.role,
                member.name,
                ("alive" if member.alive else "dead")
                + (f", {member.acted_for_by} acts for it" if member.acted_for_by else ""),
                member.load,
                output.age(member.seen_at),
            )
            for member in found
        ],
        empty="there are none",
    )
