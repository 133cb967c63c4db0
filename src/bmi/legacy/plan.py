"""Decides what an import makes: our rows for the original's, under names that we allow; and what forbids it."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeVar

from bmi.legacy.source import Old, OldImage, OldProject

_NAME_MAX = 63  # characters

Kind = Literal["project", "image", "snapshot", "disk"]
What = Literal["make", "there", "conflict", "left out"]

R = TypeVar("R", OldProject, OldImage)


class Known(NamedTuple):
    """A volume that an earlier import took over."""

    old_project: str
    old_name: str
    kind: Kind


@dataclass(frozen=True)
class Present:
    """What our database has already."""

    projects: frozenset[str]
    images: frozenset[tuple[str, str]]
    """Project and name of each."""
    disks: frozenset[tuple[str, str]]
    volumes: Mapping[str, Known]
    """What was taken over, by its name in Ceph."""


@dataclass
class Row:
    """One row of the original's, and what becomes of it."""

    kind: Kind
    old_id: int
    old_name: str
    old_project: str
    project: str
    name: str
    what: What
    backend_name: str = ""
    parent: OldImage | None = None
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What an import makes, parents before what was cloned from them."""

    rows: tuple[Row, ...]

    def of(self, what: What) -> list[Row]:
        """Return the rows of which the same becomes."""
        return [row for row in self.rows if row.what == what]


def make_plan(old: Old, present: Present, *, uid: str) -> Plan:
    """Decide what becomes of each row of the original's.

    Args:
        old: What the original has.
        present: What we have.
        uid: What names in Ceph begin with.
    """
    names = _names(old.projects, "project")
    projects = {project.id: project for project in old.projects}
    rows = [_project(project, names[project.id], present) for project in old.projects]
    volumes = {image.id: image for image in old.images}
    shared: dict[int, str] = {}
    for project in old.projects:
        # Images, snapshots and disks shared one name space; with us, disks have one of their own.
        own = [image for image in old.images if image.project == project.id]
        shared |= _names([image for image in own if not image.disk], "image")
        shared |= _names([image for image in own if image.disk], "disk")
    for image in _parents_first(old.images):
        owner = projects.get(image.project)
        row = Row(
            kind="disk" if image.disk else "snapshot" if image.snapshot else "image",
            old_id=image.id,
            old_name=image.name,
            old_project=owner.name if owner else f"id {image.project}",
            project=names.get(image.project, ""),
            name=shared.get(image.id, ""),
            what="make",
            backend_name=f"{uid}img{image.id}",
        )
        _judge(row, image, owner, present)
        _find_parent(row, image, volumes, projects)
        rows.append(row)
    return Plan(tuple(rows))


def our_name(old: str) -> str:
    """Return the name of ours that is most like an old one; empty if nothing of it can stay."""
    plain = unicodedata.normalize("NFKD", old).encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9.-]+", "-", plain).strip(".-")[:_NAME_MAX].rstrip(".-")


def _names(rows: Iterable[R], word: str) -> dict[int, str]:
    """Choose a name for each row: its own where it can stay, otherwise one like it that is free.

    Args:
        rows: What needs names, different ones.
        word: What they are, for those of whose name nothing can stay.
    """
    chosen: dict[int, str] = {}
    for row in sorted(rows, key=lambda row: (our_name(row.name) != row.name, row.id)):
        wish = our_name(row.name) or f"{word}-{row.id}"
        name = wish
        taken = set(chosen.values())
        number = row.id
        while name in taken:
            ending = f"-{number}"
            name = wish[: _NAME_MAX - len(ending)].rstrip(".-") + ending
            number += 1
        chosen[row.id] = name
    return chosen


def _project(project: OldProject, name: str, present: Present) -> Row:
    there = name in present.projects
    row = Row("project", project.id, project.name, project.name, name, name, "there" if there else "make")
    if name != project.name:
        row.remarks.append("renamed")
    if there:
        row.remarks.append("exists already, and gets what is made")
    if project.network:
        row.remarks.append(f"was provisioned on network {project.network}: make one for it")
    return row


def _judge(row: Row, image: OldImage, owner: OldProject | None, present: Present) -> None:
    if owner is None:
        row.what = "left out"
        row.remarks.append(f"its project {image.project} does not exist")
        return
    if row.name != image.name:
        row.remarks.append("renamed")
    if image.public:
        row.remarks.append("was marked public, which never had an effect: stays the project's own")
    known = present.volumes.get(row.backend_name)
    if known is not None:
        ours = Known(owner.name, image.name, row.kind)
        row.what = "there" if known == ours else "conflict"
        if known != ours:
            row.remarks.append(
                f"{row.backend_name} was taken over as {known.kind} {known.old_name} of project"
                f" {known.old_project}: another installation with this uid, or another uid is meant"
            )
        return
    taken = present.disks if row.kind == "disk" else present.images
    if (row.project, row.name) in taken:
        row.what = "conflict"
        noun = "disk" if row.kind == "disk" else "image"
        row.remarks.append(f"project {row.project} has another {noun} of this name: remove or rename one")


def _find_parent(
    row: Row, image: OldImage, volumes: Mapping[int, OldImage], projects: Mapping[int, OldProject]
) -> None:
    if image.parent is None:
        return
    parent = volumes.get(image.parent)
    if parent is None:
        row.remarks.append(f"its parent {image.parent} does not exist")
    elif parent.disk or parent.project not in projects:
        row.remarks.append(f"its parent {parent.name} is no image that is taken over")
    elif _in_circle(image, volumes):
        row.remarks.append("its parents form a circle")
    else:
        row.parent = parent


def _in_circle(image: OldImage, volumes: Mapping[int, OldImage]) -> bool:
    seen = {image.id}
    at: OldImage | None = image
    while at is not None and at.parent is not None:
        if at.parent in seen:
            return True
        seen.add(at.parent)
        at = volumes.get(at.parent)
    return False


def _parents_first(images: tuple[OldImage, ...]) -> list[OldImage]:
    by_id = {image.id: image for image in images}
    done: dict[int, OldImage] = {}
    for image in images:
        line: list[OldImage] = []
        at: OldImage | None = image
        while at is not None and at.id not in done and at not in line:
            line.append(at)
            at = by_id.get(at.parent) if at.parent is not None else None
        done |= {one.id: one for one in reversed(line)}
    return list(done.values())
