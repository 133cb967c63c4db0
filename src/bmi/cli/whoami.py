"""`bmi whoami`: whom the token or the session stands for."""

from bmi.api.access import Identity
from bmi.cli import apps, options, output
from bmi.cli.session import connect

app = apps.single()


@app.command()
def whoami(json: options.Json = False) -> None:
    """Show who you are, and what you may do, and where."""
    with connect() as bmi:
        me = bmi.whoami()
    if json:
        output.as_json(me)
        return
    output.fields(
        (
            ("name", me.name),
            ("role", "admin of every project" if me.admin else None),
            *((f"project {project}", role) for project, role in me.roles.items()),
            ("works in", bmi.project),
            ("until", me.expires_at),
            ("url", bmi.url),
        )
    )


def may(me: Identity) -> str:
    """Return what somebody may do, in words."""
    roles = [f"{role} of project {project}" for project, role in me.roles.items()]
    if me.admin:
        return "admin of every project"
    return ", ".join(roles) or "who belongs to no project yet"
