"""`bmi disk`: copy-on-write clones of images."""

from typing import Annotated

import typer

from bmi.api.disks import DiskAdopt, DiskCreate, Grow, Move, RollBack, SnapshotCreate
from bmi.api.nodes import Milestone
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


@app.command()
def adopt(
    source: Annotated[
        str,
        typer.Argument(
            help="RBD image in the pool, or raw file in the store's folder `adopt`.", metavar="SOURCE"
        ),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call the disk.")],
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a disk of what lies in the store already, without copying it. It stays where it is. Admins only.

    \b
    Example:
      bmi disk adopt node-7 --name web --project blue
    """
    with connect(project) as bmi:
        finish(bmi, bmi.disks.adopt(DiskAdopt(name=name, source=source)), wait=wait, json=json)


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
def rollback(
    disk: Name,
    image: Annotated[
        str | None,
        typer.Option(
            metavar="IMAGE",
            help="What it becomes again.",
            show_default="what it was cloned from",
            autocompletion=complete.images,
        ),
    ] = None,
    keep: Annotated[
        str | None, typer.Option(metavar="NAME", help="First make an image of this name of it as it is now.")
    ] = None,
    other_image: Annotated[
        bool, typer.Option("--other-image", help="Also to an image that has nothing to do with the disk.")
    ] = False,
    until: options.Until = Milestone.UP,
    deadline: options.Deadline = "30m",
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a disk what an image is, at once. What is on it now is gone, unless it is kept.

    A node that runs from it is switched off and on; one that is off stays off.

    \b
    Example:
      bmi disk rollback web --image web-before-upgrade --keep web-broken
    """
    request = RollBack(
        image=image, keep=keep, other_image=other_image, until=until, deadline=options.span(deadline)
    )
    with connect(project) as bmi:
        finish(bmi, bmi.disks.roll_back(disk, request), wait=wait, json=json)


@app.command()
def grow(
    disk: Name,
    size: Annotated[str, typer.Option(metavar="SIZE", help="Its new size: 40G.")],
    restart: Annotated[
        bool, typer.Option("--restart", help="Switch a node off and on again that runs from it.")
    ] = False,
    until: options.Until = Milestone.UP,
    deadline: options.Deadline = "30m",
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a disk larger. A node sees that at its next boot, so one that runs from it has to be restarted.

    \b
    Example:
      bmi disk grow web --size 40G --restart
    """
    request = Grow(size=options.size(size), restart=restart, until=until, deadline=options.span(deadline))
    with connect(project) as bmi:
        finish(bmi, bmi.disks.grow(disk, request), wait=wait, json=json)


@app.command()
def move(
    disk: Name,
    to: Annotated[
        str, typer.Option(metavar="NODE", help="Free node that is to boot it.", autocompletion=complete.nodes)
    ],
    network: Annotated[
        str | None,
        typer.Option(
            metavar="NETWORK",
            help="Network to boot on.",
            show_default="where it is now",
            autocompletion=complete.networks,
        ),
    ] = None,
    until: options.Until = Milestone.UP,
    deadline: options.Deadline = "30m",
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Boot a disk on another node: the same operating system on other hardware. The first node is given back.

    \b
    Example:
      bmi disk move web --to n2
    """
    request = Move(to=to, network=network, until=until, deadline=options.span(deadline))
    with connect(project) as bmi:
        finish(bmi, bmi.disks.move(disk, request), wait=wait, json=json)


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
