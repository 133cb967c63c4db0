"""`bmi disk`: copy-on-write clones of images."""

from typing import Annotated

import typer

from bmi.api.disks import DiskCreate, SnapshotCreate
from bmi.cli import apps, complete, options, output
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.noun("Writable copy-on-write clones of images.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="DISK", autocompletion=complete.disks)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="What to call it.", metavar="NAME")],
    image: Annotated[
        str, typer.Option(metavar="IMAGE", help="Image to clone.", autocompletion=complete.images)
    ],
    size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Its size: 20G.", show_default="the image's")
    ] = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a disk from an image, at once and without a copy.

    \b
    Example:
      bmi disk create web --image debian --size 20G
    """
    request = DiskCreate(name=name, image=image, size=None if size is None else options.size(size))
    with connect(project) as bmi:
        finish(bmi, bmi.disks.create(request), wait=wait, json=json)


@app.command("list")
def list_(project: options.ProjectName = None, json: options.Json = False) -> None:
    """List the disks."""
    with connect(project) as bmi:
        found = list(bmi.disks.list())
    if json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "STATE", "IMAGE", "NODE", "SIZE", "PROJECT", "CREATED"),
        [
            (
                disk.name,
                disk.state,
                disk.image_name or disk.image,
                disk.node,
                output.size(disk.size),
                disk.project,
                disk.created_at,
            )
            for disk in found
        ],
        empty="there are no disks; make one with `bmi disk create NAME --image IMAGE`",
    )


@app.command()
def show(disk: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """Show a disk."""
    with connect(project) as bmi:
        found = bmi.disks.get(disk)
    if json:
        output.as_json(found)
        return
    output.fields(
        (
            ("name", found.name),
            ("state", found.state),
            ("project", found.project),
            ("image", found.image_name or found.image),
            ("node", found.node),
            ("size", output.size(found.size)),
            ("own", found.usage and output.size(found.usage.own)),
            ("shared", found.usage and output.size(found.usage.shared)),
            ("id", found.id),
            ("created", found.created_at),
        )
    )


@app.command()
def snapshot(
    disk: Name,
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call the image.")],
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make an image from a disk as it is now.

    \b
    Example:
      bmi disk snapshot web --name web-before-upgrade
    """
    with connect(project) as bmi:
        finish(bmi, bmi.disks.snapshot(disk, SnapshotCreate(name=name)), wait=wait, json=json)


@app.command()
def flatten(
    disk: Name, project: options.ProjectName = None, wait: options.Wait = True, json: options.Json = False
) -> None:
    """Make a disk independent of its image, by copying what they have in common. A node may run on it."""
    with connect(project) as bmi:
        finish(bmi, bmi.disks.flatten(disk), wait=wait, json=json)


@app.command()
def delete(
    disk: Name, project: options.ProjectName = None, wait: options.Wait = True, json: options.Json = False
) -> None:
    """Remove a disk and what is on it."""
    with connect(project) as bmi:
        finish(bmi, bmi.disks.delete(disk), wait=wait, json=json)
