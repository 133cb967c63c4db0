"""Images as they go over the wire."""

from collections.abc import Iterable

from sqlalchemy.orm import Session

from bmi.access.policy import Caller
from bmi.api import images as wire
from bmi.images.lineage import hide_foreign_parents
from bmi.images.models import Image


def view(session: Session, caller: Caller, row: Image) -> wire.Image:
    """Return an image as a caller may see it."""
    return views(session, caller, [row])[0]


def views(session: Session, caller: Caller, rows: Iterable[Image]) -> list[wire.Image]:
    """Return images as a caller may see them."""
    return hide_foreign_parents(session, caller, [_view(row) for row in rows])


def _view(row: Image) -> wire.Image:
    return wire.Image(
        id=row.id,
        name=row.name,
        project=row.project.name if row.project else None,
        state=row.state,
        origin=row.origin,
        parent=row.parent_id,
        parent_name=row.parent.name if row.parent else None,
        size=row.size,
        created_at=row.created_at,
        golden=row.golden,
        description=row.description,
        labels=row.labels,
        visibility=row.visibility if row.project_id else "public",
        deprecated=row.deprecated,
        deleted_at=row.deleted_at,
    )
