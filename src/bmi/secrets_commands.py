"""`bmi secrets`: the keys that secrets in the database are sealed with, used by the command itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from bmi import schema, sealed
from bmi.audit.service import write_local
from bmi.cli import apps, output
from bmi.db import Db
from bmi.db_commands import Config, open_database
from bmi.errors import SettingsInvalid
from bmi.settings import load_settings
from bmi.vault import Vault, added, changing, key_name, used, write_keys

app = apps.noun("The keys that secrets in the database are sealed with: change them, check them.")


@app.command()
def check(
    config: Config = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show which key each secret is sealed with: exit status 1 if there are some that no key opens."""
    with _opened(config) as (db, vault):
        found = sealed.check(db, vault)
        names = [key_name(key) for key in vault.keys().sealing]
    rows = [(where, key, count) for (where, key), count in sorted(found.keys.items())]
    if as_json:
        values = {
            "keys": names,
            "secrets": [{"where": where, "key": key, "count": count} for where, key, count in rows],
            "unreadable": found.lost,
        }
        typer.echo(json.dumps(values, indent=2))
    else:
        typer.echo(f"keys: {names[0]} seals" + "".join(f", {name} opens" for name in names[1:]))
        output.table(("WHERE", "KEY", "SECRETS"), rows, empty="there are no secrets")
    _refuse_lost(found.lost)


@app.command("add-key")
def add_key(config: Config = None) -> None:
    """Add a new key, which opens and does not seal yet; then copy the file to all hosts."""
    with _opened(config) as (db, vault), changing(vault.key_file):
        keys = added(vault.keys())
        name = key_name(keys.sealing[-1])
        write_local(db, "secrets.add-key", f"key {name}")
        write_keys(vault.key_file, keys)
    typer.echo(
        f"added key {name} to {vault.key_file}; copy it to all hosts, then: bmi secrets use-key {name}"
    )


@app.command("use-key")
def use_key(
    name: Annotated[str, typer.Argument(metavar="KEY", help="The key's name, as add-key and check show it.")],
    config: Config = None,
) -> None:
    """Seal with a key from now on; all hosts must have it. Then copy the file to them again."""
    with _opened(config) as (db, vault), changing(vault.key_file):
        keys = used(vault.keys(), name)
        write_local(db, "secrets.use-key", f"key {name}")
        write_keys(vault.key_file, keys)
    typer.echo(f"key {name} seals now; copy {vault.key_file} to all hosts, then rotate")


@app.command()
def rotate(config: Config = None) -> None:
    """Seal all secrets with the first key of the file. The service may run; it can be repeated at any time."""
    with _opened(config) as (db, vault):
        name = key_name(vault.keys().sealing[0])
        write_local(db, "secrets.rotate", f"key {name}")
        changed, lost = sealed.rotate(db, vault)
    typer.echo(f"{changed} secrets were sealed anew, with key {name}")
    _refuse_lost(lost)


@app.command("drop-keys")
def drop_keys(config: Config = None) -> None:
    """Take all keys but the first out of the file, if nothing is sealed with them any more."""
    with _opened(config) as (db, vault), changing(vault.key_file):
        count = sealed.drop_keys(db, vault)
        write_local(db, "secrets.drop-keys", f"{count} keys")
    typer.echo(f"{count} keys were taken out of {vault.key_file}; copy it to all hosts")


@contextmanager
def _opened(config: Config) -> Iterator[tuple[Db, Vault]]:
    settings = load_settings(config)
    with open_database(config) as db:
        schema.require(db)
        if not settings.vault_file.exists():
            raise SettingsInvalid(
                f"the key file {settings.vault_file} does not exist",
                next_step="run this where the service's key file is, or name its settings with --config",
            )
        yield db, Vault(settings.vault_file)


def _refuse_lost(lost: list[str]) -> None:
    if lost:
        raise SettingsInvalid(
            f"{len(lost)} secrets cannot be opened with any key of the file, such as {lost[0]}",
            next_step="put the missing key's line back into the file, or set these secrets anew",
        )
