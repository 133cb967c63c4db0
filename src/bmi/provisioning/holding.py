"""What keeps an image from going: operations that work on it, and those that are making something of it."""

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.orm import Session

from bmi.errors import InUse
from bmi.images.models import Disk, Image
from bmi.provisioning.models import Operation


def refuse_worked_on(session: Session, image: Image) -> None:
    """Refuse an image that an operation makes, removes or changes.

    Raises:
        InUse: One does.
    """
    _refuse(session, image, "is busy", Operation.image_id == image.id)


def refuse_source(session: Session, image: Image) -> None:
    """Refuse an image that a disk or another image is being made of; one that is made needs it no more.

    Raises:
        InUse: One is.
    """
    disks = select(Disk.id).where(Disk.image_id == image.id, Disk.state == "creating")
    copies = select(Image.id).where(
        Image.parent_id == image.id, Image.state == "creating", Image.origin == "copy"
    )
    _refuse(session, image, "is needed", or_(Operation.disk_id.in_(disks), Operation.image_id.in_(copies)))


def _refuse(session: Session, image: Image, why: str, condition: ColumnElement[bool]) -> None:
    running = select(Operation).where(Operation.ended_at.is_(None), condition)
    if other := session.scalars(running).first():
        raise InUse(
            f"image {image.name} {why}: {other.verb} of {other.subject} is {other.state}",
            next_step=f"wait for it (bmi op wait {other.id}) or cancel it (bmi op cancel {other.id})",
        )
