"""`bmi login`: saves where the service is, and the secret of a session or a token."""

import os
import sys
from typing import Annotated

import typer

from bmi.api.access import LogIn
from bmi.cli import apps, options, output
from bmi.cli.failures import Failure
from bmi.cli.sso import log_in as log_in_by_browser
from bmi.cli.user import known_password
from bmi.cli.whoami import may
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
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="NAME", help="Log in with a password.")
    ] = None,
    password_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE", help="File with the password, - for standard input.", show_default="asks"
        ),
    ] = None,
    sso: Annotated[
        bool, typer.Option("--sso", help="Log in by the service's OpenID Connect provider, in a browser.")
    ] = False,
    browser: Annotated[
        bool,
        typer.Option("--browser/--no-browser", help="Open a browser for that, or show the address only."),
    ] = True,
    port: Annotated[
        int,
        typer.Option(
            min=0, max=65535, help="Port that the browser comes back to.", show_default="any free one"
        ),
    ] = 0,
    project: Annotated[
        str | None,
        typer.Option("--project", "-p", metavar="PROJECT", help="Project to work in from now on."),
    ] = None,
) -> None:
    """Log in with a password, by single sign-on or with a token; what is used from now on is saved.

    It is tried first. Passwords and tokens are never arguments: other users can read those.

    \b
    Example:
      bmi login https://bmi.example.org --user ann --project blue
      bmi login https://bmi.example.org --sso
      bmi login http://127.0.0.1:6230 --token-file /var/lib/bmi/admin.token
    """
    if sum((sso, user is not None, token_file is not None)) > 1:
        raise typer.BadParameter("give one of --user, --sso and --token-file")
    if url is None:
        mine = profile.load()
        url, project = mine.url, project or mine.project
    if url is None:
        raise typer.BadParameter("name the service's URL", param_hint="URL")
    if sso or user is not None:
        with Client(url) as bmi:
            secret = (
                log_in_by_browser(bmi, port=port, browser=browser)
                if user is None
                else bmi.log_in(
                    LogIn.model_validate({"name": user, "password": known_password(password_file)})
                )
            ).secret
    else:
        secret = _token(token_file)
    with Client(url, secret) as bmi:
        me = bmi.whoami()
        if project is not None:
            bmi.projects.get(project)
    file = profile.path()
    profile.save(Profile(url=bmi.url, token=secret, project=project), file)
    output.line(f"logged in to {bmi.url} as {me.name}, {may(me)}; saved in {file}")
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
