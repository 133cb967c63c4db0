"""`bmi node console`: a node's serial console, live or as it was recorded."""

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from bmi.cli import complete, options, output
from bmi.cli.failures import Failure
from bmi.cli.harmless import Harmless
from bmi.cli.session import connect
from bmi.client import Client
from bmi.client.consoles import INPUT_MOST
from bmi.client.errors import ClientError

_LOOK = 0.1  # seconds between two looks whether the other side has ended
_HELP = b"\r\n[~. leave the console   ~~ type a tilde   ~? this help; each at the beginning of a line]\r\n"


def console(
    node: Annotated[str, typer.Argument(help="Name or id.", metavar="NODE", autocompletion=complete.nodes)],
    log: Annotated[
        bool, typer.Option("--log", help="Print what is recorded of it since it was last started, and end.")
    ] = False,
    boot: Annotated[
        int, typer.Option("--boot", metavar="N", min=0, help="With --log: of an earlier start; see --list.")
    ] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Only watch; end with Ctrl-C.")] = False,
    list_: Annotated[bool, typer.Option("--list", help="List the starts that are recorded.")] = False,
    raw: Annotated[
        bool,
        typer.Option(
            "--raw", help="With --log or --follow: every byte as the node sent it, into a file at best."
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Use a node's serial console; leave it with Enter, then ~ and a dot.

    \b
    Example:
      bmi node console n1
      bmi node console n1 --log | less
    """
    if sum((log, follow, list_)) > 1 or (boot and not log) or (raw and not (log or follow)):
        raise typer.BadParameter(
            "give one of --log, --follow and --list; --boot goes with --log, --raw with the first two"
        )
    with connect() as bmi:
        if list_ or json:
            _list(bmi, node, json=json)
        elif log:
            _print(bmi.consoles.read(node, boot), raw=raw)
        elif follow:
            _print(bmi.consoles.follow(node), raw=raw)
        else:
            _talk(bmi, node)


def _list(bmi: Client, node: str, *, json: bool) -> None:
    found = bmi.consoles.get(node)
    if json:
        output.as_json(found)
        return
    if not found.open:
        output.note(f"the console is not open: {output.clean(found.problem or 'nobody listens to it')}")
    output.table(
        ("BOOT", "BEGAN", "SIZE", "PROJECT"),
        [(each.number, each.began_at, output.size(each.size), each.project) for each in found.recordings],
        empty=f"nothing is recorded yet; start it with `bmi node power {node} on`, or provision it",
    )


def _print(parts: Iterator[bytes], *, raw: bool) -> None:
    """Print what a node said, as it comes."""
    harmless = Harmless()
    for part in parts:
        if raw:
            sys.stdout.buffer.write(part)
        else:
            sys.stdout.write(harmless(part))
        sys.stdout.flush()
    if not raw:
        sys.stdout.write(harmless(b"", final=True))


class Escape:
    """Finds in what a person types what is meant for this command: `~.`, `~~` and `~?` where a line begins."""

    def __init__(self) -> None:
        self._begins_line = True
        self._tilde = False

    def __call__(self, typed: bytes) -> tuple[bytes, bool, bool]:
        """Return what goes to the node, whether help is wanted, and whether the person leaves."""
        out, help = bytearray(), False
        for byte in typed:
            if self._tilde:
                self._tilde = False
                if byte == ord("."):
                    return bytes(out), help, True
                if byte == ord("?"):
                    help = True
                    continue
                if byte != ord("~"):
                    out.append(ord("~"))
            elif self._begins_line and byte == ord("~"):
                self._tilde = True
                continue
            out.append(byte)
            self._begins_line = byte in b"\r\n"
        return bytes(out), help, False


def _talk(bmi: Client, node: str) -> None:
    """Connect the terminal with the console, until the person leaves or the service says no."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Failure(
            "a console needs a terminal to type on", next_step="use --follow to watch, or --log to read it"
        )
    found = bmi.consoles.get(node)
    if not found.open:
        output.note(f"the console is not open: {output.clean(found.problem or 'nobody listens to it yet')}")
    output.note("leave with Enter, then ~ and a dot; help with ~?")
    ended: list[BaseException] = []
    watching = threading.Thread(target=_watch, args=(bmi, node, ended), daemon=True)
    with _raw_terminal():
        watching.start()
        try:
            _type(bmi, node, ended)
        except ClientError as error:
            ended.append(error)
    output.note("")
    if ended:
        raise ended[0]


def _watch(bmi: Client, node: str, ended: list[BaseException]) -> None:
    try:
        for part in bmi.consoles.follow(node):
            os.write(sys.stdout.fileno(), part)
    except Exception as error:
        ended.append(error)


def _type(bmi: Client, node: str, ended: list[BaseException]) -> None:
    """Send what is typed; what comes while a request is on its way goes with the next one."""
    escape, keyboard = Escape(), sys.stdin.fileno()
    while not ended:
        ready, _, _ = select.select([keyboard], [], [], _LOOK)
        if not ready:
            continue
        typed = os.read(keyboard, INPUT_MOST // 2)  # each byte may be two: a tilde that was kept back
        data, help, leaves = escape(typed)
        if help:
            os.write(sys.stdout.fileno(), _HELP)
        if data:
            bmi.consoles.type(node, data)
        if leaves or not typed:
            return


@contextmanager
def _raw_terminal() -> Iterator[None]:
    """Let every key come through as it is."""
    before = termios.tcgetattr(sys.stdin)
    tty.setraw(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
