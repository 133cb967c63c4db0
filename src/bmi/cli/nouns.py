"""The commands under `bmi`, each imported only when it is run."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from bmi.cli import apps
from bmi.cli.failures import Failure

MANAGE = "Manage"
WATCH = "Watch"
CONNECT = "Connect"
RUN = "Run the service"

_EXTRAS = {"lab": "lab"}  # of the others' parts, `server`
_HELP = {
    "serve": "Run the whole service on this host.",
    "api": "Run the API alone, beside workers and gateways.",
    "worker": "Run a worker alone: it carries operations out.",
    "gateway": "Run a gateway alone: it serves disks and boots nodes.",
    "helper": "Do what takes root's rights, so that the others need none.",
    "db": "The service's database: upgrade, check, import an old one.",
    "secrets": "The keys of the secrets in the database: change them, check them.",
    "inspector": "The small system that machines boot to be discovered: build it.",
    "lab": "Run a virtual data centre to try things out in.",
}


@dataclass(frozen=True)
class Noun:
    """A command of BMI's own."""

    name: str
    help: str
    panel: str


NOUNS = (
    Noun("node", "Physical servers: register, provision, give back, power, history.", MANAGE),
    Noun("image", "Golden images and snapshots: build, list, remove.", MANAGE),
    Noun("disk", "Copy-on-write clones of images: make, snapshot, remove.", MANAGE),
    Noun("network", "VLANs that nodes boot in.", MANAGE),
    Noun("project", "Tenants.", MANAGE),
    Noun("user", "People who log in.", MANAGE),
    Noun("token", "API keys.", MANAGE),
    Noun("op", "Operations: follow, wait for, cancel long work.", WATCH),
    Noun("doctor", "Compare what really exists with what should, and mend it.", WATCH),
    Noun("members", "Gateways and workers: which live, and what they carry.", WATCH),
    Noun("audit", "Who changed what, from where, and who was refused.", WATCH),
    Noun("login", "Log in; save where the service is, and your secret.", CONNECT),
    Noun("logout", "End your session, and forget its secret.", CONNECT),
    Noun("whoami", "Show who you are, and what you may do.", CONNECT),
    Noun("version", "Show the versions of this command and of the service.", CONNECT),
)


class Nouns(TyperGroup):
    """The root command: lists its commands without importing them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        for noun in NOUNS:
            self.add_command(_Later(noun.name, noun.help, noun.panel, partial(_own, noun.name)))
        for point in sorted(entry_points(group="bmi.commands"), key=_place):
            help = _HELP.get(point.name) or f"From {point.dist.name if point.dist else point.module}."
            self.add_command(_Later(point.name, help, RUN, partial(_plugged_in, point)))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands, by what they are for."""
        for panel in (MANAGE, WATCH, CONNECT, RUN):
            listed = [one for one in self.commands.values() if isinstance(one, _Later) and one.panel == panel]
            if listed:
                with formatter.section(panel):
                    formatter.write_dl([(one.name, one.help) for one in listed])

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command by its name and, now that it is to be run, import it."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command.loaded() if isinstance(command, _Later) else command, rest


class _Later(TyperCommand):
    """Stands for a command in the list of them."""

    def __init__(self, name: str, help: str, panel: str, load: Callable[[], Any]) -> None:
        super().__init__(name, help=help)
        self.panel = panel
        self._load = load

    def loaded(self) -> Any:
        """Return the command itself."""
        command = self._load()
        command.name = self.name
        return command


def _place(point: EntryPoint) -> tuple[int, str]:
    """Say where a command stands in the list: ours in our order, then those of others."""
    names = list(_HELP)
    return (names.index(point.name) if point.name in names else len(names), point.name)


def _own(name: str) -> Any:
    return get_command(import_module(f"bmi.cli.{name}").app)


def _plugged_in(point: EntryPoint) -> Any:
    try:
        found = point.load()
    except ImportError as error:
        missing = error.name or str(error)
        if missing.split(".")[0] == "bmi" or point.name not in _HELP:
            raise Failure(
                f"the command {point.name} cannot be loaded: {error}", next_step="install its package again"
            ) from error
        extra = _EXTRAS.get(point.name, "server")
        raise Failure(
            f"{point.name} needs the {extra} parts ({missing} is missing)",
            next_step=f"install bare-metal-imaging[{extra}]",
        ) from error
    if isinstance(found, typer.Typer):
        return get_command(found)
    alone = apps.single()
    alone.command()(found)
    return get_command(alone)
