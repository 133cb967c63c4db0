"""`bmi`: what there is, and how every run of it ends.

Nothing is imported before it is needed: `bmi --help` and completion have to feel instant.
"""

import errno
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, NoReturn

import typer
from typer.main import get_command

from bmi.cli.failures import Failure, told
from bmi.cli.nouns import Nouns

_OUTPUT_BROKEN = (errno.EPIPE, errno.ENOSPC, errno.EIO)

app = typer.Typer(
    cls=Nouns,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode=None,
)

_HELP = """Boot bare-metal servers over the network, each from its own copy-on-write clone of a golden image.

\b
First steps:
  bmi login http://HOST:6230
  bmi image build debian --name debian
  bmi network create lan
  bmi node provision n1 --image debian --network lan

Every command explains itself with --help, and prints JSON with --json.
"""


def _print_version(asked: bool) -> None:
    if asked:
        from bmi import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback(invoke_without_command=True, help=_HELP)
def bmi(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print this command's version.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    """Show the help where no command is given."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status.

    0 is success, 1 an error of the service or of the way to it, 2 a command that was not written right,
    130 Ctrl-C.
    """
    try:
        try:
            status = get_command(app).main(list(arguments), prog_name="bmi", standalone_mode=False)
            sys.stdout.flush()
        except SystemExit as end:
            status = end.code
        except typer.Abort:
            raise Failure("stopped, nothing was done", next_step="", status=130) from None
        return status if isinstance(status, int) else 0
    except OSError as error:
        if error.errno not in _OUTPUT_BROKEN or error.filename is not None:
            raise
        # Python flushes once more when it ends, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        # The reader may just have had enough, as in `bmi node list | head -1`.
        if not isinstance(error, BrokenPipeError):
            _tell(Failure(error.strerror or str(error), next_step="look at where the output goes"))
        return 1
    except Exception as error:
        failure = told(error)
        if failure is None:
            raise
        _tell(failure)
        return failure.status


def _tell(failure: Failure) -> None:
    print(f"bmi: {failure}", file=sys.stderr)  # noqa: T201


def main() -> NoReturn:
    """Run the command that the shell was given."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A terminal that knows no check mark shows a question mark.
            stream.reconfigure(errors="replace")
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
