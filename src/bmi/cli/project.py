"""`bmi project`: tenants."""

from typing import Annotated

import typer

from bmi.api.access import ProjectCreate
from bmi.cli import apps, complete, options, output
from bmi.cli.session import connect

app = apps.noun("Tenants: they own images, disks and networks.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="PROJECT", autocompletion=complete.projects)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.", metavar="NAME")],
    json: options.Json = False,
) -> None:
    """Make a project.

    \b
    Example:
      bmi project create blue
    """
    with connect() as bmi:
        made = bmi.projects.create(ProjectCreate(name=name))
    if json:
        output.as_json(made)
    else:
        output.line(f"made project {made.name} ({made.id})")


@app.command("list")
def list_(json: options.Json = False) -> None:
    """List the projects that you may see."""
    with connect() as bmi:
        found = list(bmi.projects.list())
    if json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "ID", "CREATED"),
        [(project.name, project.id, project.created_at) for project in found],
        empty="there are no projects; make one with `bmi project create NAME`",
    )


@app.command()
def show(project: Name, json: options.Json = False) -> None:
    """Show a project."""
    with connect() as bmi:
        found = bmi.projects.get(project)
    if json:
        output.as_json(found)
        return
    output.fields((("name", found.name), ("id", found.id), ("created", found.created_at)))


@app.command()
def delete(project: Name) -> None:
    """Remove a project that owns nothing any more."""
    with connect() as bmi:
        bmi.projects.delete(project)
    output.line(f"removed project {project}")
