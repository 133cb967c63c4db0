"""HTTP of images."""

from fastapi import APIRouter, Response

from bmi.access.policy import Action
from bmi.access.service import find_owned, select_visible
from bmi.api import images as wire
from bmi.api.common import Page
from bmi.api.operations import Operation
from bmi.db import page
from bmi.drivers.storage import Kind, Volume
from bmi.http import InProject, Pages, TheService, Who
from bmi.images.models import Image
from bmi.images.usage import usage_of
from bmi.provisioning import images, legacy
from bmi.provisioning.accept import accept

router = APIRouter()


@router.post("/images/build", status_code=202, tags=["images"])
def build_image(service: TheService, who: Who, body: wire.ImageBuild, response: Response) -> Operation:
    """Build a golden image from a distribution's packages."""
    return accept(service, response, lambda session: images.ask_build(session, who, body))


@router.post("/images/adopt", status_code=202, tags=["images"])
def adopt_image(service: TheService, who: Who, body: wire.ImageAdopt, response: Response) -> Operation:
    """Make an image of a content that lies in the store already, without copying it."""
    return accept(service, response, lambda session: images.ask_adopt(session, who, body))


@router.post("/images/adopt-legacy", status_code=202, tags=["images"])
def adopt_legacy(service: TheService, who: Who, response: Response) -> Operation:
    """Make images and disks of what was imported from the original BMI, without copying it."""
    return accept(service, response, lambda session: legacy.ask(session, who))


@router.get("/images", tags=["images"])
def list_images(service: TheService, who: Who, paging: Pages, project: InProject = None) -> Page[wire.Image]:
    """List the project's images and everybody's, oldest first."""
    with service.parts.db.read() as session:
        query = select_visible(session, who, Image, Action.IMAGE_READ, project)
        rows, following = page(session, query, Image, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[_image(row) for row in rows], next=following)


@router.get("/images/{image}", tags=["images"])
def show_image(service: TheService, who: Who, image: str, project: InProject = None) -> wire.Image:
    """Show an image."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Image, image, Action.IMAGE_READ, project=project)
        found = _image(row)
    return found.model_copy(update={"usage": usage_of(service.parts.storage, Volume(Kind.IMAGE, found.id))})


@router.post("/images/{image}/flatten", status_code=202, tags=["images"])
def flatten_image(
    service: TheService, who: Who, image: str, response: Response, project: InProject = None
) -> Operation:
    """Make an image independent of what it was made from, by copying what they have in common."""
    return accept(service, response, lambda session: images.ask_flatten(session, who, image, project))


@router.delete("/images/{image}", status_code=202, tags=["images"])
def delete_image(
    service: TheService, who: Who, image: str, response: Response, project: InProject = None
) -> Operation:
    """Remove an image; disks cloned from it stay whole."""
    return accept(service, response, lambda session: images.ask_delete(session, who, image, project))


def _image(row: Image) -> wire.Image:
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
    )
