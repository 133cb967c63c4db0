"""`bmi image edit`, `commit`, `discard`: an image is edited on a node."""

from pathlib import Path
from typing import Annotated

import typer

from bmi.api.image_edit import ImageCommit, ImageDiscard, ImageEdit
from bmi.api.nodes import Milestone
from bmi.cli import apps, complete, options
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.single()

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="IMAGE", autocompletion=complete.images)]
AtNode = Annotated[
    str, typer.Option("--node", metavar="NODE", help="Node that edits.", autocompletion=complete.nodes)
]


@app.command()
def edit(
    image: Name,
    node: Annotated[
        str, typer.Option(metavar="NODE", help="Free node to edit on.", autocompletion=complete.nodes)
    ],
    network: Annotated[
        str, typer.Option(metavar="NETWORK", help="Network to boot on.", autocompletion=complete.networks)
    ],
    ssh_key: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="File with public keys that may log in; repeat it for more."),
    ] = None,
    until: options.Until = Milestone.UP,
    deadline: options.Deadline = "30m",
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Boot a node from a scratch clone of an image, to change it. The image itself stays as it is.

    \b
    Example:
      bmi image edit debian --node n3 --network lan --ssh-key ~/.ssh/id_ed25519.pub
    """
    from bmi.cli.node import public_keys

    request = ImageEdit(
        node=node,
        network=network,
        ssh_keys=[key for file in ssh_key or [] for key in public_keys(str(Path(file).expanduser()))],
        until=until,
        deadline=options.span(deadline),
    )
    with connect(project) as bmi:
        finish(bmi, bmi.image_edits.edit(image, request), wait=wait, json=json)


@app.command()
def commit(
    node: AtNode,
    name: Annotated[str, typer.Option(metavar="NAME", help="What to call the new image.")],
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make an image of what was changed on a node, and give the node back. Shut its system down before.

    \b
    Example:
      bmi image commit --node n3 --name debian-2
    """
    with connect() as bmi:
        finish(bmi, bmi.image_edits.commit(ImageCommit(node=node, name=name)), wait=wait, json=json)


@app.command()
def discard(node: AtNode, wait: options.Wait = True, json: options.Json = False) -> None:
    """Give a node back, and forget what was changed on it."""
    with connect() as bmi:
        finish(bmi, bmi.image_edits.discard(ImageDiscard(node=node)), wait=wait, json=json)
