"""`bmi image`: golden images and snapshots."""

from typing import Annotated, Literal

import typer

from bmi.api.images import ImageAdopt, ImageBuild
from bmi.cli import (
    apps,
    complete,
    image_edit,
    image_files,
    image_life,
    image_readiness,
    options,
    output,
    tree,
)
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.noun("Immutable, bootable disk contents.")

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="IMAGE", autocompletion=complete.images)]


@app.command()
def build(
    distribution: Annotated[
        Literal["debian"], typer.Argument(help="What to build it from.", metavar="DISTRIBUTION")
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call it.")],
    size: Annotated[
        str, typer.Option(metavar="SIZE", help="Size of the disk that nodes see: 2G, 20GiB.")
    ] = "2G",
    cloud_init: Annotated[
        bool,
        typer.Option("--cloud-init", help="Put cloud-init in, instead of BMI's small first-boot script."),
    ] = False,
    cleaner: Annotated[
        bool,
        typer.Option("--cleaner", help="Let it wipe the local disks of nodes that boot it to be cleaned."),
    ] = False,
    kernel: Annotated[
        Literal["cloud", "generic"], typer.Option(help="generic has the drivers of real servers.")
    ] = "cloud",
    package: Annotated[
        list[str] | None,
        typer.Option(metavar="PACKAGE", help="One more package to put in; repeat it for more."),
    ] = None,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Build a golden image from a distribution's packages.

    \b
    Example:
      bmi image build debian --name debian --size 4G --package htop
    """
    request = ImageBuild(
        name=name,
        distribution=distribution,
        size=options.size(size),
        cloud_init=cloud_init,
        cleaner=cleaner,
        kernel=kernel,
        packages=package or [],
    )
    with connect(project) as bmi:
        finish(bmi, bmi.images.build(request), wait=wait, json=json)


@app.command()
def adopt(
    source: Annotated[
        str,
        typer.Argument(
            help="RBD image in the pool, or raw file in the store's folder `adopt`.", metavar="SOURCE"
        ),
    ],
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call the image.")],
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make an image of what lies in the store already, without copying it. It stays where it is.

    \b
    Example:
      bmi image adopt node-image-7 --name rescued
    """
    with connect(project) as bmi:
        finish(bmi, bmi.images.adopt(ImageAdopt(name=name, source=source)), wait=wait, json=json)


@app.command("adopt-legacy")
def adopt_legacy(wait: options.Wait = True, json: options.Json = False) -> None:
    """Make images and disks of what was imported from the original BMI, without copying it.

    Import its database first: bmi db import-legacy.
    """
    with connect() as bmi:
        finish(bmi, bmi.images.adopt_legacy(), wait=wait, json=json)


@app.command("list")
def list_(
    deleted: Annotated[bool, typer.Option("--deleted", help="List what is in the trash.")] = False,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """List the images: your project's, those that others share with it, and everybody's.

    One of another project is called PROJECT:NAME in all commands.
    """
    with connect(project) as bmi:
        found = list(bmi.images.list(deleted=deleted))
    if json:
        output.as_json(found)
        return
    output.table(
        ("NAME", "STATE", "ORIGIN", "PARENT", "SIZE", "PROJECT", "FOR", "CREATED", "NOTE"),
        [
            (
                image.name,
                image.state,
                image.origin,
                image.parent_name or image.parent,
                output.size(image.size),
                image.project,
                image.visibility,
                image.created_at,
                image_life.note(image),
            )
            for image in found
        ],
        empty="the trash is empty"
        if deleted
        else "there are no images; build one with `bmi image build debian --name debian`",
    )


@app.command()
def show(image: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """Show an image."""
    with connect(project) as bmi:
        found = bmi.images.get(image)
    if json:
        output.as_json(found)
        return
    output.fields(
        (
            ("name", found.name),
            ("state", found.state),
            ("origin", found.origin),
            ("parent", found.parent_name or found.parent),
            ("project", found.project),
            ("size", output.size(found.size)),
            ("own", found.usage and output.size(found.usage.own)),
            ("shared", found.usage and output.size(found.usage.shared)),
            ("id", found.id),
            ("created", found.created_at),
            *image_life.fields(found),
        )
    )


@app.command()
def flatten(
    image: Name, project: options.ProjectName = None, wait: options.Wait = True, json: options.Json = False
) -> None:
    """Make an image independent of what it was made from, by copying what they have in common."""
    with connect(project) as bmi:
        finish(bmi, bmi.images.flatten(image), wait=wait, json=json)


for part in (image_files, image_readiness, image_edit, image_life, tree):
    app.add_typer(part.app)
