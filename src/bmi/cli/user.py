"""`bmi user`: people who log in."""

import sys
from typing import Annotated

import typer

from bmi.api.access import PasswordChange, PasswordSet, User, UserChange, UserCreate
from bmi.cli import apps, complete, options, output
from bmi.cli.failures import Failure
from bmi.cli.session import connect

app = apps.noun("People who log in, with a password or by an OpenID Connect provider.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="USER", autocompletion=complete.users)]
PasswordFile = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="File with the password, - for standard input.", show_default="asks"),
]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call him.", metavar="NAME")],
    admin: Annotated[bool, typer.Option("--admin", help="Let him do everything, in every project.")] = False,
    password_file: PasswordFile = None,
    json: options.Json = False,
) -> None:
    """Make a user with a password of 12 characters at least. What he may do, `bmi project grant` says.

    \b
    Example:
      bmi user create ann
      bmi project grant blue ann member
    """
    request = UserCreate.model_validate(
        {"name": name, "admin": admin, "password": new_password(password_file)}
    )
    with connect() as bmi:
        made = bmi.users.create(request)
    if json:
        output.as_json(made)
    else:
        output.line(f"made user {made.name}{', an admin' if made.admin else ''} ({made.id})")


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the users."""
    with connect() as bmi:
        found = list(bmi.users.list())
    if json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "ADMIN", "STATE", "PROVIDER", "CREATED", "ID"),
        [
            (user.name, "admin" if user.admin else "", _state(user), user.provider, user.created_at, user.id)
            for user in found
        ],
        empty="there are no users; make one with `bmi user create NAME`",
    )


@app.command()
def show(user: Name, json: options.Json = False) -> None:
    """Show a user."""
    with connect() as bmi:
        found = bmi.users.get(user)
    _show(found, json=json)


@app.command()
def change(
    user: Name,
    admin: Annotated[
        bool | None, typer.Option("--admin/--no-admin", help="Whether he may do everything, everywhere.")
    ] = None,
    disabled: Annotated[
        bool | None,
        typer.Option("--disable/--enable", help="Whether he is kept out; his sessions end at once."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Make a user an admin or not, keep him out, or let him in again."""
    given = {"admin": admin, "disabled": disabled}
    wanted = {name: value for name, value in given.items() if value is not None}
    if not wanted:
        raise typer.BadParameter("say what is to change: --admin, --no-admin, --disable or --enable")
    with connect() as bmi:
        found = bmi.users.change(user, UserChange.model_validate(wanted))
    _show(found, json=json)


@app.command()
def password(
    user: Annotated[
        str | None,
        typer.Argument(
            help="Name or id.", metavar="USER", show_default="yourself", autocompletion=complete.users
        ),
    ] = None,
    password_file: PasswordFile = None,
) -> None:
    """Change your own password, which ends your other sessions; or, as an admin, give a user a new one."""
    if user is not None:
        request = PasswordSet.model_validate({"password": new_password(password_file)})
        with connect() as bmi:
            bmi.users.set_password(user, request)
        output.line(f"user {user} has a new password; the sessions have ended")
        return
    old = known_password(None, "Old password")
    new = new_password(password_file)
    with connect() as bmi:
        bmi.change_password(PasswordChange.model_validate({"old": old, "new": new}))
    output.line("your password is changed; your other sessions have ended")


@app.command()
def delete(user: Name) -> None:
    """Remove a user, with sessions, tokens and what he may do in projects."""
    with connect() as bmi:
        bmi.users.delete(user)
    output.line(f"removed user {user}")


def known_password(file: str | None, prompt: str = "Password") -> str:
    """Return a password that somebody has.

    Raises:
        Failure: There is no terminal to ask on.
    """
    if file is not None:
        return options.secret(file)
    _require_terminal()
    return str(typer.prompt(prompt, hide_input=True))


def new_password(file: str | None) -> str:
    """Return a password that somebody chooses.

    Raises:
        Failure: It is too short, or there is no terminal to ask on.
    """
    if file is not None:
        chosen = options.secret(file)
    else:
        _require_terminal()
        chosen = str(typer.prompt("New password", hide_input=True, confirmation_prompt="Once more"))
    if not 12 <= len(chosen) <= 1024:
        raise Failure(
            f"the password has {len(chosen)} characters", next_step="choose one of 12 at least", status=2
        )
    return chosen


def _require_terminal() -> None:
    if not sys.stdin.isatty():
        raise Failure(
            "there is no terminal to ask for the password on", next_step="use --password-file", status=2
        )


def _show(found: User, *, json: bool) -> None:
    if json:
        output.as_json(found)
        return
    output.fields(
        (
            ("name", found.name),
            ("id", found.id),
            ("admin", "yes" if found.admin else "no"),
            ("state", _state(found)),
            ("provider", found.provider),
            ("created", found.created_at),
        )
    )


def _state(user: User) -> str:
    return "disabled" if user.disabled else "enabled"
