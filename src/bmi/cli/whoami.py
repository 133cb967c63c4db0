"""`bmi whoami`: who the token stands for."""

from bmi.cli import apps, options, output
from bmi.cli.session import connect

app = apps.single()


@app.command()
def whoami(json: options.Json = False) -> None:
    """Show who your token stands for, and where."""
    with connect() as bmi:
        me = bmi.whoami()
    if json:
        output.as_json(me)
        return
    output.fields(
        (("token", me.token), ("role", me.role), ("project", me.project or bmi.project), ("url", bmi.url))
    )
