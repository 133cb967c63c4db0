"""What images are made from, and what becomes of that when one goes."""

from sqlalchemy import ColumnElement, select, true, update
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import visible
from bmi.api import images as wire
from bmi.images.models import Disk, Image


def forget(session: Session, image: Image) -> None:
    """Remove the row of an image whose content is gone, and hand what was made from it to its own parent.

    So a family tree has no holes. A parent of another project is not told to those who were not told of it before:
    what they have becomes the first of its line.
    """
    heir = image.parent
    if heir is not None:
        for table, column in ((Image, Image.parent_id), (Disk, Disk.image_id)):
            # A disk that is half-made may still have to be cloned, and not from another content.
            theirs = (column == image.id, table.state == "ready", _may_know(table, heir))
            session.execute(update(table).where(*theirs).values({column: heir.id}))
    session.delete(image)


def hide_foreign_parents(session: Session, caller: Caller, found: list[wire.Image]) -> list[wire.Image]:
    """Leave out what images were made from, where the caller may not know of that."""
    limit = visible(session, caller, Image, Action.IMAGE_READ, None)
    if limit is None:
        return found
    parents = {image.parent for image in found if image.parent is not None}
    known = set(session.scalars(select(Image.id).where(Image.id.in_(parents), limit)))
    return [
        image
        if image.parent is None or image.parent in known
        else image.model_copy(update={"parent": None, "parent_name": None})
        for image in found
    ]


def _may_know(table: type[Image] | type[Disk], heir: Image) -> ColumnElement[bool]:
    if heir.project_id is None:
        return true()
    return table.project_id == heir.project_id
