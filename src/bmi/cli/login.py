"""`bmi login`: saves where the service is, and the token."""

import os
import sys
from typing import Annotated

import typer

from bmi.cli import apps, options, output
from bmi.cli.failures import Failure
from bmi.client import Client, profile
from bmi.client.profile import Profile

app = apps.single()


@app.command()
def login(
    url: Annotated[
        str | None, typer.Argument(metavar="URL", help="Where the service is.", show_default="your profile's")
    ] = None,
    token_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="File with the token, - for standard input.",
            show_default="BMI_TOKEN, or asks",
        ),
    ] = None,
    project: Annotated[
        str | None,
        typer.Option("--project", "-p", metavar="PROJECT", help="Project to work in from now on."),
    ] = None,
) -> None:
    """Save where the service is, and your token, for the commands to come.

    The token is tried first, and is never an argument: other users can read those.

    \b
    Example:
      bmi login https://bmi.example.org --project blue
      bmi login http://127.0.0.1:6230 --token-file /var/lib/bmi/admin.token
    """
    if url is None:
        mine = profile.load()
        url, project = mine.url, project or mine.project
    if url is None:
        raise typer.BadParameter("name the service's URL", param_hint="URL")
    token = _token(token_file)
    with Client(url, token) as bmi:
        me = bmi.whoami()
        if project is not None:
            bmi.projects.get(project)
    file = profile.path()
    profile.save(Profile(url=bmi.url, token=token, project=project), file)
    scope = f"project {me.project}" if me.project else "every project"
    output.line(f"logged in to {bmi.url} as {me.token}, {me.role} of {scope}; saved in {file}")
    overruling = [name for name in ("BMI_URL", "BMI_TOKEN", "BMI_PROJECT") if os.environ.get(name)]
    if overruling:
        output.note(f"mind that {' and '.join(overruling)} in your environment still wins over the file")


def _token(file: str | None) -> str:
    if file is not None:
        token = options.secret(file)
    elif given := os.environ.get("BMI_TOKEN"):
        token = given
    elif sys.stdin.isatty():
        token = typer.prompt("Token", hide_input=True)
    else:
        raise Failure(
            "there is no terminal to ask for the token on",
            next_step="use --token-file FILE, or BMI_TOKEN",
            status=2,
        )
    return token.strip()
