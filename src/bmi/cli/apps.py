"""The shape that all commands share.

Help is plain text: it starts three times as fast as Rich's boxes, and examples stay as they are written.
"""

import typer

SETTINGS = {"help_option_names": ["-h", "--help"]}
"""Of every command."""


def noun(help: str) -> typer.Typer:
    """Return the group of a noun's verbs; without a verb it shows its help.

    Args:
        help: What the noun is.
    """
    app = typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=SETTINGS)

    @app.callback(invoke_without_command=True, help=help)
    def show_help(context: typer.Context) -> None:
        if context.invoked_subcommand is None:
            typer.echo(context.get_help(), err=True)
            raise typer.Exit(2)

    return app


def single() -> typer.Typer:
    """Return the place for a command that is a verb itself."""
    return typer.Typer(add_completion=False, rich_markup_mode=None, context_settings=SETTINGS)
