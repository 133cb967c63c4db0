"""`bmi project`: tenants."""

from collections.abc import Iterator
from typing import Annotated

import typer

from bmi.api.access import MemberSet, Project, ProjectCreate, QuotaChange, Role
from bmi.cli import apps, complete, options, output
from bmi.cli.session import connect

app = apps.noun("Tenants: they own images, disks and networks.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="PROJECT", autocompletion=complete.projects)]
User = Annotated[str, typer.Argument(help="Name or id.", metavar="USER", autocompletion=complete.users)]


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
    output.fields((("name", found.name), ("id", found.id), ("created", found.created_at), *_quota(found)))


@app.command()
def quota(
    project: Name,
    nodes: Annotated[str | None, typer.Option(metavar="NUMBER", help="How many nodes at a time.")] = None,
    images: Annotated[str | None, typer.Option(metavar="NUMBER", help="How many images.")] = None,
    disks: Annotated[str | None, typer.Option(metavar="NUMBER", help="How many disks.")] = None,
    image_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The size of all images together: 500G.")
    ] = None,
    disk_bytes: Annotated[
        str | None, typer.Option(metavar="SIZE", help="The size of all disks together: 2T.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Show what a project may own and what it owns; as an admin, set it. `none` takes a limit away.

    Sizes are those that nodes see. What is in the trash counts.

    \b
    Example:
      bmi project quota blue --nodes 8 --images 20 --disks 50 --image-bytes 500G --disk-bytes 2T
    """
    given = {
        "nodes": nodes,
        "images": images,
        "disks": disks,
        "image_bytes": image_bytes,
        "disk_bytes": disk_bytes,
    }
    wanted = {name: _limit(name, text) for name, text in given.items() if text is not None}
    with connect() as bmi:
        if wanted:
            found = bmi.projects.change_quota(project, QuotaChange.model_validate(wanted))
        else:
            found = bmi.projects.get(project)
    if json:
        output.as_json(found)
        return
    output.fields((("project", found.name), *_quota(found)))


@app.command()
def members(project: Name, json: options.Json = False) -> None:
    """List the users of a project, and what each may do in it."""
    with connect() as bmi:
        found = list(bmi.users.members(project))
    if json:
        output.as_json(found)
        return
    output.table(
        ("USER", "ROLE", "FROM", "SINCE"),
        [(one.user, one.role, "a group" if one.provided else "a manager", one.created_at) for one in found],
        empty=f"project {project} has no users; let one in with `bmi project grant {project} USER ROLE`",
    )


@app.command()
def grant(
    project: Name,
    user: User,
    role: Annotated[Role, typer.Argument(help="What he may: viewer, member, manager.", metavar="ROLE")],
    json: options.Json = False,
) -> None:
    """Say what a user may do in a project from now on.

    \b
    Example:
      bmi project grant blue ann member
    """
    with connect() as bmi:
        found = bmi.users.grant(project, user, MemberSet(role=role))
    if json:
        output.as_json(found)
    else:
        output.line(f"user {found.user} is {found.role} of project {project}")


@app.command()
def revoke(project: Name, user: User) -> None:
    """Take away what a user may do in a project, at once."""
    with connect() as bmi:
        bmi.users.revoke(project, user)
    output.line(f"user {user} may do nothing in project {project} any more")


@app.command()
def delete(project: Name) -> None:
    """Remove a project that owns nothing any more."""
    with connect() as bmi:
        bmi.projects.delete(project)
    output.line(f"removed project {project}")


def _quota(found: Project) -> Iterator[tuple[str, str]]:
    """Return what a project owns of what it may own."""
    if (use := found.use) is None:
        return
    for name in ("nodes", "images", "image_bytes", "disks", "disk_bytes"):
        shown = output.size if name.endswith("bytes") else str
        limit, owned = getattr(found.quota, name), shown(getattr(use, name))
        trashed = getattr(use, f"trashed_{name}", 0)
        yield (
            name.replace("_bytes", " sizes"),
            f"{owned} of {'any number' if limit is None else shown(limit)}"
            + (f", {shown(trashed)} in the trash" if trashed else ""),
        )


def _limit(name: str, text: str) -> int | None:
    if text == "none":
        return None
    if name.endswith("bytes"):
        return options.size(text)
    if not text.isdecimal():
        raise typer.BadParameter(f"{text!r} is no number of {name}, nor `none`")
    return int(text)
