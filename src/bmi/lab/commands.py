"""`bmi lab`: a virtual data centre to try BMI in."""

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from bmi.lab import console, demo
from bmi.lab.lab import Lab
from bmi.lab.layout import DEFAULT_FOLDER, Store

app = typer.Typer(
    help="A virtual data centre on this machine: nodes, BMCs, a switch, and a BMI service. Needs root.",
    no_args_is_help=True,
)

Folder = Annotated[Path, typer.Option("--dir", envvar="BMI_LAB_DIR", help="Where the lab's files are.")]
Port = Annotated[int, typer.Option(help="Port of the lab's service, on loopback.")]

Keep = Annotated[Store, typer.Option("--store", help="What keeps images and disks.")]

_out = Console(highlight=False, soft_wrap=True)


def _tell(what: str, seconds: float) -> None:
    _out.print(f"[green]✓[/] {what} [dim]({seconds:.1f} s)[/]")


@app.command()
def up(
    nodes: Annotated[int, typer.Option(min=1, max=64, help="How many nodes.")] = 3,
    folder: Folder = DEFAULT_FOLDER,
    api_port: Port = 6230,
    store: Keep = Store.LOCAL,
) -> None:
    """Bring the lab up, or complete one that is half up."""
    Lab(folder).up(nodes, api_port, _tell, store)
    _out.print(f'The lab is up. To talk to it: eval "$(bmi lab env{_option(folder)})"')


@app.command()
def down(folder: Folder = DEFAULT_FOLDER) -> None:
    """Take the lab down, with everything that it made."""
    if not Lab(folder).down(_tell):
        _out.print(f"There is no lab in {folder}.")


@app.command()
def status(folder: Folder = DEFAULT_FOLDER) -> None:
    """Show what of the lab runs."""
    lab = Lab(folder)
    found = lab.status()
    table = Table("part", "state", "console", box=None)
    for name, runs in (("switch", found.switch), ("BMCs", found.controllers), ("service", found.service)):
        table.add_row(name, "running" if runs else "[red]down[/]", "")
    for entry in found.nodes:
        words = f"{entry.node.name} ({entry.node.firmware})"
        table.add_row(words, "on" if entry.on else "off", str(lab.machine(entry.node.name).console_log))
    _out.print(table)


@app.command()
def env(folder: Folder = DEFAULT_FOLDER) -> None:
    """Print the shell line that makes `bmi` talk to the lab's service."""
    lab = Lab(folder)
    lab.require()
    typer.echo(f"export BMI_CLIENT_CONFIG={shlex.quote(str(lab.profile))}")


@app.command("console")
def show_console(
    node: str,
    folder: Folder = DEFAULT_FOLDER,
    log: Annotated[bool, typer.Option("--log", help="Print what was said since power-on, and end.")] = False,
) -> None:
    """Sit down at a node's serial console; Ctrl-] leaves it."""
    machine = Lab(folder).machine(node)
    if log or not sys.stdin.isatty():
        text = machine.console_log.read_text(errors="replace") if machine.console_log.exists() else ""
        typer.echo(text, nl=False)
        return
    console.attach(machine.console, machine.console_log)


@app.command("demo")
def run_demo(
    folder: Folder = DEFAULT_FOLDER,
    api_port: Port = 6230,
    store: Keep = Store.LOCAL,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything up to play with.")] = False,
) -> None:
    """Show the whole idea: two tenants, four boots, a snapshot, isolation, and nothing left behind."""
    demo.run(Lab(folder), api_port, store, keep=keep, console=_out)


def _option(folder: Path) -> str:
    return "" if folder == DEFAULT_FOLDER else f" --dir {shlex.quote(str(folder))}"
