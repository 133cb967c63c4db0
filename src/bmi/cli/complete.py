"""Names for the shell to complete, from the service; nothing, and soon, where it does not answer."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from bmi.client import Client

_PATIENCE = 1.0  # seconds; who presses Tab does not wait longer
_MANY = 200  # names that are worth showing


def nodes(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the nodes' names."""
    return _names(ctx, incomplete, lambda bmi: bmi.nodes.list(limit=_MANY))


def images(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the images' names."""
    return _names(ctx, incomplete, lambda bmi: bmi.images.list(limit=_MANY))


def disks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the disks' names."""
    return _names(ctx, incomplete, lambda bmi: bmi.disks.list(limit=_MANY))


def networks(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the networks' names."""
    return _names(ctx, incomplete, lambda bmi: bmi.networks.list(limit=_MANY))


def projects(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the projects' names."""
    return _names(ctx, incomplete, lambda bmi: bmi.projects.list(limit=_MANY))


def tokens(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the tokens' names."""
    return _names(ctx, incomplete, lambda bmi: bmi.tokens.list(limit=_MANY))


def users(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the users' names."""
    return _names(ctx, incomplete, lambda bmi: bmi.users.list(limit=_MANY))


def operations(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return the operations' ids."""
    return _names(ctx, incomplete, lambda bmi: bmi.operations.list(limit=_MANY), "id")


def _names(
    ctx: typer.Context, incomplete: str, ask: Callable[["Client"], Iterable[Any]], field: str = "name"
) -> list[str]:
    from bmi.cli.failures import Failure
    from bmi.cli.session import connect
    from bmi.client import ClientError

    found: list[str] = []

    def look() -> None:
        # A message would land in the middle of the line that is being typed.
        with suppress(ClientError, Failure), connect(ctx.params.get("project"), timeout=_PATIENCE) as bmi:
            found.extend(str(getattr(thing, field)) for thing in ask(bmi))

    # A thread, since name resolution knows no time limit; it dies with the process.
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(_PATIENCE)
    return [name for name in list(found) if name.startswith(incomplete)]
