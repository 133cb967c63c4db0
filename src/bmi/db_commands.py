"""`bmi db`: the service's database, opened by the command itself."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from bmi import schema
from bmi.audit import service as audit
from bmi.cli import apps, output
from bmi.db import Db
from bmi.errors import ImportRefused, SettingsInvalid
from bmi.legacy.plan import Plan, What
from bmi.legacy.service import take_over
from bmi.settings import load_settings

app = apps.noun("The service's database: its tables, and what it takes over.")

Config = Annotated[
    Path | None, typer.Option(help="Settings file; $BMI_CONFIG or /etc/bmi/bmi.toml if absent.")
]

_COUNTED: dict[What, str] = {"there": "there already", "left out": "left out"}


@app.command()
def upgrade(config: Config = None) -> None:
    """Give the database the tables that this release needs; all services that use it must be stopped."""
    with open_database(config) as db:
        done = schema.upgrade(db)
        if not done.steps:
            typer.echo(f"{db.name} has schema {done.before.needed} already; nothing was done")
            return
        audit.write_local(db, "db.upgrade", f"schema {done.before.found or 'none'} -> {done.before.needed}")
        for step in done.steps:
            typer.echo(step)
        typer.echo(f"{db.name}: schema {done.before.found or 'none'} -> {done.before.needed}{done.remark}")


@app.command()
def current(
    config: Config = None, as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False
) -> None:
    """Show which tables the database has, and which ones this release needs."""
    with open_database(config) as db:
        found = schema.look(db)
        if as_json:
            values = {
                "database": db.name,
                "schema": found.found,
                "needed": found.needed,
                "state": found.state,
            }
            typer.echo(json.dumps(values, indent=2))
            return
        typer.echo(f"database  {db.name}")
        typer.echo(f"schema    {found.found or 'none'} ({found.state})")
        typer.echo(f"needed    {found.needed}")


@app.command()
def check(config: Config = None) -> None:
    """Say whether this release can use the database as it is: exit status 0 if so, 1 if not."""
    with open_database(config) as db:
        schema.require(db)
        typer.echo(f"{db.name} has schema {schema.look(db).needed}, as this release needs")


@app.command("import-legacy")
def import_legacy(
    file: Annotated[Path, typer.Argument(help="SQLite file of the original BMI; it is only read.")],
    uid: Annotated[str, typer.Option(help="`uid` of its configuration: Ceph names are UIDimgID.")],
    snapshot_name: Annotated[
        str, typer.Option(help="`snapshot` of its configuration: the snapshot of each image in Ceph.")
    ],
    config: Config = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be made, and make nothing.")
    ] = False,
) -> None:
    """Take over projects, images, snapshots and disks of the original BMI; Ceph is not touched."""
    with open_database(config) as db:
        schema.require(db)
        plan = take_over(db, file, uid=uid, snapshot_name=snapshot_name, dry_run=dry_run)
        if not dry_run and not plan.of("conflict"):
            audit.write_local(db, "db.import-legacy", f"{file.name}: {len(plan.of('make'))} rows")
    _show(plan)
    counts = ", ".join(f"{words}: {len(plan.of(what))}" for what, words in _COUNTED.items())
    if conflicts := plan.of("conflict"):
        raise ImportRefused(
            f"{len(conflicts)} of {len(plan.rows)} rows cannot be taken over, so nothing was made",
            next_step="see the remarks of each conflict in the list",
        )
    typer.echo(f"{'would be made' if dry_run else 'made'}: {len(plan.of('make'))}, {counts}")


@app.command("prune-audit")
def prune_audit(
    days: Annotated[
        int, typer.Argument(help="Remove lines of the audit trail older than this; 30 at least.")
    ],
    config: Config = None,
) -> None:
    """Remove old lines of the audit trail; that it was done stays in it. The service may run meanwhile."""
    with open_database(config) as db:
        schema.require(db)
        removed, before = audit.prune(db, days)
    typer.echo(f"{removed} lines from before {before:%Y-%m-%d %H:%M:%S} UTC were removed")


@contextmanager
def open_database(config: Path | None) -> Iterator[Db]:
    """Open the database that the settings name, for a command."""
    settings = load_settings(config)
    db = Db(settings.database_url, command=True)
    if db.sqlite and not settings.state_dir.is_dir() and settings.database.url is None:
        raise SettingsInvalid(
            f"the folder {settings.state_dir} does not exist: no service has run with these settings",
            next_step="name the service's settings with --config, or start it: it makes its own tables",
        )
    try:
        yield db
    finally:
        db.close()


def _show(plan: Plan) -> None:
    output.table(
        ("KIND", "PROJECT", "OLD NAME", "NAME", "PARENT", "CEPH", "WHAT", "REMARKS"),
        (
            (
                row.kind,
                row.project,
                _one_line(row.old_name),
                row.name,
                _one_line(row.parent.name) if row.parent else None,
                row.backend_name or None,
                row.what,
                _one_line("; ".join(row.remarks)) or None,
            )
            for row in plan.rows
        ),
        empty="the database is empty",
    )


def _one_line(text: str) -> str:
    return " ".join(text.splitlines())
