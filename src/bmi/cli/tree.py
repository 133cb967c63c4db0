"""`bmi image tree`: what was made of what."""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal
from uuid import UUID

import typer

from bmi.api.common import Response
from bmi.api.disks import Disk
from bmi.api.images import Image
from bmi.cli import apps, complete, image_life, options, output
from bmi.cli.session import connect

app = apps.single()


class Branch(Response):
    """An image or a disk, and what was made of it."""

    kind: Literal["image", "disk"]
    id: UUID
    name: str
    project: str | None
    state: str
    remarks: list[str]
    """What a person should know of it."""
    made_of_it: list["Branch"] = []


@app.command()
def tree(
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="IMAGE",
            help="Only its ancestors, and what was made of it.",
            autocompletion=complete.images,
        ),
    ] = None,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """Show which images and disks were made of which, also of those in the trash.

    What was made of an image that is gone stands under that one's own parent.
    """
    with connect(project) as bmi:
        only = None if image is None else bmi.images.get(image).id
        images = [*bmi.images.list(), *bmi.images.list(deleted=True)]
        roots = grown(images, bmi.disks.list(), only=only)
    if json:
        output.as_json(roots)
        return
    for root in roots:
        for text in drawn(root):
            output.line(text)
    if not roots:
        output.note("there are no images; build one with `bmi image build debian --name debian`")


def grown(images: Iterable[Image], disks: Iterable[Disk], *, only: UUID | None = None) -> list[Branch]:
    """Return the trees of some images and disks, oldest first.

    Args:
        images: The images.
        disks: The disks.
        only: An image to whose ancestors and descendants the trees are cut down.
    """
    known = {image.id: image for image in images}
    children: dict[UUID | None, list[Image | Disk]] = defaultdict(list)
    things: list[Image | Disk] = [*known.values(), *disks]
    for thing in sorted(things, key=lambda thing: thing.id):  # ids are time-ordered
        origin = _origin(thing)
        children[origin if origin in known else None].append(thing)
    wanted = None if only is None else _line(known, only)

    def branch(thing: Image | Disk) -> Branch:
        below = children[thing.id] if isinstance(thing, Image) else []
        if wanted is not None and thing.id in wanted and thing.id != only:
            below = [child for child in below if child.id in wanted]
        return _branch(thing, [branch(child) for child in below])

    return [branch(thing) for thing in children[None] if wanted is None or thing.id in wanted]


def drawn(root: Branch) -> Iterator[str]:
    """Return the lines of a tree."""
    yield _line_of(root, None)
    yield from _below(root, "")


def _below(branch: Branch, indent: str) -> Iterator[str]:
    for child in branch.made_of_it:
        last = child is branch.made_of_it[-1]
        yield f"{indent}{'└─ ' if last else '├─ '}{_line_of(child, branch)}"
        yield from _below(child, indent + ("   " if last else "│  "))


def _line_of(branch: Branch, above: Branch | None) -> str:
    remarks = list(branch.remarks)
    if above is None or above.project != branch.project:
        remarks.append(f"project {branch.project}" if branch.project else "everybody's")
    return output.clean(f"{branch.name}  {', '.join(remarks)}")


def _branch(thing: Image | Disk, below: list[Branch]) -> Branch:
    return Branch(
        kind="image" if isinstance(thing, Image) else "disk",
        id=thing.id,
        name=thing.name,
        project=thing.project,
        state=thing.state,
        remarks=list(_remarks(thing)),
        made_of_it=below,
    )


def _remarks(thing: Image | Disk) -> Iterator[str]:
    if isinstance(thing, Disk):
        yield "disk"
        if thing.node is not None:
            yield f"boots node {thing.node}"
    else:
        yield "golden image" if thing.golden else "snapshot" if thing.origin == "snapshot" else "copy"
    if thing.state != "ready":
        yield thing.state
    if isinstance(thing, Image) and (note := image_life.note(thing)):
        yield note


def _origin(thing: Image | Disk) -> UUID | None:
    return thing.parent if isinstance(thing, Image) else thing.image


def _line(known: dict[UUID, Image], id: UUID) -> set[UUID]:
    """Return an image's ancestors, itself included."""
    line: set[UUID] = set()
    above: UUID | None = id
    while above in known and above not in line:
        line.add(above)
        above = known[above].parent
    return line
