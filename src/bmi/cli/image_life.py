"""`bmi image`: what happens to images while they live."""

from collections.abc import Iterable
from typing import Annotated, Literal

import typer

from bmi.api.image_life import ImageChange, ImageCopy, ImageMove, ImagePromote, ImageUndelete
from bmi.api.images import Image
from bmi.cli import apps, complete, options, output
from bmi.cli.progress import finish
from bmi.cli.session import connect

app = apps.single()

Name = Annotated[str, typer.Argument(help="Name or id.", metavar="IMAGE", autocompletion=complete.images)]
Everybody = Annotated[
    bool, typer.Option("--everybody", help="It is to belong to no project, and be everybody's; for admins.")
]
Other = Annotated[
    str, typer.Argument(metavar="PROJECT", help="The other project's id; admins may use its name.")
]


def note(image: Image) -> str | None:
    """Return what a person should know before using an image."""
    if image.deleted_at is not None:
        return f"in the trash since {output.when(image.deleted_at)}"
    return None if image.deprecated is None else f"deprecated: {image.deprecated}"


def fields(image: Image) -> Iterable[tuple[str, object]]:
    """Return what is said about an image, and who may use it."""
    yield "kind", "golden image" if image.golden else "snapshot"
    yield "for", image.visibility
    yield "about", image.description or None
    yield "labels", "\n".join(f"{key}={value}" for key, value in image.labels.items()) or None
    yield "note", note(image)


@app.command("set")
def set_(
    image: Name,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="Call it this from now on.")] = None,
    description: Annotated[
        str | None, typer.Option(metavar="TEXT", help="What there is to say about it.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Set a label; repeat it for more.")
    ] = None,
    unlabel: Annotated[
        list[str] | None, typer.Option(metavar="KEY", help="Take a label away; repeat it for more.")
    ] = None,
    visibility: Annotated[
        Literal["private", "shared", "public"] | None,
        typer.Option(help="private ends all sharing, public is for admins to give."),
    ] = None,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """Rename, describe or label an image, or change who may use it.

    \b
    Example:
      bmi image set web-42 --name web --description "nginx 1.26, hardened" --label os=debian
    """
    given: dict[str, object] = {"name": name, "description": description, "visibility": visibility}
    labels: dict[str, str | None] = dict.fromkeys(unlabel or [])
    labels |= dict(_pair(text) for text in label or [])
    change = {key: value for key, value in given.items() if value is not None}
    if labels:
        change["labels"] = labels
    if not change:
        raise typer.BadParameter("say what is to be different")
    with connect(project) as bmi:
        _tell(bmi.images.change(image, ImageChange.model_validate(change)), "changed", json=json)


@app.command()
def deprecate(
    image: Name,
    reason: Annotated[
        str | None, typer.Argument(metavar="REASON", help="Why, and what to use instead.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="It may be used again.")] = False,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """Say that an image should not be used any more. It can be used all the same.

    \b
    Example:
      bmi image deprecate debian-12 "has a hole in sshd, use debian-13"
    """
    if undo == (reason is not None):
        raise typer.BadParameter("give a reason, or --undo")
    with connect(project) as bmi:
        changed = bmi.images.change(image, ImageChange(deprecated=reason))
    _tell(changed, "may be used again:" if undo else "deprecated", json=json)


@app.command()
def share(image: Name, other: Other, project: options.ProjectName = None, json: options.Json = False) -> None:
    """Let another project list, read and clone an image. There it is called PROJECT:NAME, after your project."""
    with connect(project) as bmi:
        made = bmi.images.share(image, other)
    if json:
        output.as_json(made)
    else:
        output.line(f"image {image} is shared with project {made.project}")


@app.command()
def unshare(image: Name, other: Other, project: options.ProjectName = None) -> None:
    """Let a project use an image no longer. The disks that it made of it stay whole."""
    with connect(project) as bmi:
        bmi.images.unshare(image, other)
    output.line(f"image {image} is not shared with {other} any more")


@app.command()
def shares(image: Name, project: options.ProjectName = None, json: options.Json = False) -> None:
    """List the projects that an image is shared with."""
    with connect(project) as bmi:
        found = bmi.images.shares(image)
    if json:
        output.as_json(found)
        return
    output.table(
        ("PROJECT", "ID", "SINCE"),
        [(one.project, one.project_id, one.created_at) for one in found],
        empty="it is shared with no project; share it with `bmi image share IMAGE PROJECT`",
    )


@app.command()
def copy(
    image: Name,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What to call the copy.")],
    to: Annotated[
        str | None,
        typer.Option(
            metavar="PROJECT",
            help="Project that the copy is for.",
            show_default="the one you work in",
            autocompletion=complete.projects,
        ),
    ] = None,
    everybody: Everybody = False,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make an image with the same content, at once and without copying it; also of one that is shared with you.

    \b
    Example:
      bmi image copy blue:debian debian
    """
    request = ImageCopy(name=name, project=to, everybody=everybody)
    with connect(project) as bmi:
        finish(bmi, bmi.images.copy(image, request), wait=wait, json=json)


@app.command()
def move(
    image: Name,
    to: Annotated[
        str | None,
        typer.Argument(metavar="PROJECT", help="Where it goes to.", autocompletion=complete.projects),
    ] = None,
    everybody: Everybody = False,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What it is called there.", show_default="as before")
    ] = None,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """Give an image to another project, as a private one. It takes rights in both: in practice, an admin's."""
    if everybody == (to is not None):
        raise typer.BadParameter("name the project that it goes to, or --everybody")
    with connect(project) as bmi:
        moved = bmi.images.move(image, ImageMove(project=to, everybody=everybody, name=name))
    _tell(moved, "moved", json=json)


@app.command()
def promote(
    image: Name,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call it.", show_default="as before")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let every project use it; for admins.")] = False,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Make a golden image of a snapshot, independent of the disk that it was taken from.

    \b
    Example:
      bmi image promote web-before-upgrade --name web
    """
    with connect(project) as bmi:
        operation = bmi.images.promote(image, ImagePromote(name=name, public=public))
        finish(bmi, operation, wait=wait, json=json)


@app.command()
def delete(
    image: Name,
    now: Annotated[bool, typer.Option("--now", help="Remove it for good, in the trash or not.")] = False,
    project: options.ProjectName = None,
    wait: options.Wait = True,
    json: options.Json = False,
) -> None:
    """Put an image into the trash, from where it can be taken back. What was made of it stays whole."""
    with connect(project) as bmi:
        if now:
            finish(bmi, bmi.images.purge(image), wait=wait, json=json)
            return
        gone = bmi.images.delete(image)
    if json:
        output.as_json(gone)
    else:
        output.line(
            f"image {gone.name} is in the trash; take it back with `bmi image undelete {gone.name}`, "
            "or list what is there with `bmi image list --deleted`"
        )


@app.command()
def undelete(
    image: Name,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="What to call it.", show_default="as before")
    ] = None,
    project: options.ProjectName = None,
    json: options.Json = False,
) -> None:
    """Take an image out of the trash."""
    with connect(project) as bmi:
        _tell(bmi.images.undelete(image, ImageUndelete(name=name)), "is back:", json=json)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is no label: write it as KEY=VALUE")
    return key, value


def _tell(image: Image, what: str, *, json: bool) -> None:
    if json:
        output.as_json(image)
    else:
        whose = f"of project {image.project}" if image.project else "of everybody"
        output.line(f"{what} image {image.name} {whose} ({image.visibility})")
