"""`bmi token`: API keys."""

from typing import Annotated

import typer

from bmi.api.access import Role, TokenCreate
from bmi.cli import apps, complete, options, output
from bmi.cli.session import connect

app = apps.noun("API keys of people and robots.")


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.", metavar="NAME")],
    role: Annotated[Role, typer.Option(help="What it may do: see, use, manage a project; or everything.")],
    project: options.ProjectName = None,
    expires: Annotated[
        str | None,
        typer.Option(metavar="WHEN", help="When it ends: 30d, 12h or 2027-01-31.", show_default="never"),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a token. Its secret is printed now and never again.

    \b
    Example:
      BMI_TOKEN=$(bmi token create ci --role member --project blue --expires 30d)
    """
    with connect(project) as bmi:
        made = bmi.tokens.create(
            TokenCreate(
                name=name,
                role=role,
                # An admin's token is good for every project, whatever the profile says.
                project=project if role is Role.ADMIN else bmi.project,
                expires_at=None if expires is None else options.moment(expires),
            )
        )
    if json:
        output.as_json(made)
        return
    good_for = f"project {made.project}" if made.project else "every project"
    end = f", until {output.when(made.expires_at)}" if made.expires_at else ""
    output.note(f"token {made.name}: {made.role} of {good_for}{end}. Keep the secret, it is not shown again:")
    output.line(made.secret)


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the tokens, without their secrets."""
    with connect() as bmi:
        found = list(bmi.tokens.list())
    if json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "ROLE", "PROJECT", "EXPIRES", "CREATED", "ID"),
        [
            (token.name, token.role, token.project, token.expires_at, token.created_at, token.id)
            for token in found
        ],
        empty="there are no tokens; make one with `bmi token create NAME --role ROLE`",
    )


@app.command()
def revoke(
    token: Annotated[
        str, typer.Argument(help="Name or id.", metavar="TOKEN", autocompletion=complete.tokens)
    ],
) -> None:
    """Make a token useless from now on."""
    with connect() as bmi:
        bmi.tokens.revoke(token)
    output.line(f"revoked token {token}")
