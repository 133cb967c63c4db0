"""HTTP of images."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from bmi.access.policy import Action
from bmi.access.rules import asks
from bmi.access.service import find_owned, select_visible
from bmi.api import images as wire
from bmi.api.common import Page
from bmi.api.operations import Operation
from bmi.db import page
from bmi.drivers.storage import Kind, Volume
from bmi.http import InProject, Pages, TheService, Who
from bmi.images.models import Image
from bmi.images.usage import usage_of
from bmi.images.views import view, views
from bmi.provisioning import images, legacy
from bmi.provisioning.accept import accept

router = APIRouter()


@router.post(
    "/images/build",
    status_code=202,
    tags=["images"],
    dependencies=[asks(Action.IMAGE_BUILD, sometimes=(Action.IMAGE_WRITE,))],
)
def build_image(service: TheService, who: Who, body: wire.ImageBuild, response: Response) -> Operation:
    """Build a golden image from a distribution's packages."""
    return accept(service, response, lambda session: images.ask_build(session, who, body))


@router.post(
    "/images/adopt",
    status_code=202,
    tags=["images"],
    dependencies=[asks(Action.IMAGE_BUILD, sometimes=(Action.IMAGE_WRITE,))],
)
def adopt_image(service: TheService, who: Who, body: wire.ImageAdopt, response: Response) -> Operation:
    """Make an image of a content that lies in the store already, without copying it."""
    return accept(service, response, lambda session: images.ask_adopt(session, who, body))


@router.post(
    "/images/adopt-legacy", status_code=202, tags=["images"], dependencies=[asks(Action.IMAGE_BUILD)]
)
def adopt_legacy(service: TheService, who: Who, response: Response) -> Operation:
    """Make images and disks of what was imported from the original BMI, without copying it."""
    return accept(service, response, lambda session: legacy.ask(session, who))


@router.get(
    "/images", tags=["images"], dependencies=[asks(Action.IMAGE_READ, sometimes=(Action.IMAGE_SHARES,))]
)
def list_images(
    service: TheService,
    who: Who,
    paging: Pages,
    project: InProject = None,
    deleted: Annotated[bool, Query(description="List the trash instead; the project's own only")] = False,
) -> Page[wire.Image]:
    """List the project's images, those that others share with it, and everybody's, oldest first."""
    with service.parts.db.read() as session:
        action = Action.IMAGE_SHARES if deleted else Action.IMAGE_READ
        query = select_visible(session, who, Image, action, project).where(
            Image.deleted_at.is_not(None) if deleted else Image.deleted_at.is_(None)
        )
        rows, following = page(session, query, Image, limit=paging.limit, cursor=paging.cursor)
        return Page(items=views(session, who, rows), next=following)


@router.get("/images/{image}", tags=["images"], dependencies=[asks(Action.IMAGE_READ)])
def show_image(service: TheService, who: Who, image: str, project: InProject = None) -> wire.Image:
    """Show an image."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Image, image, Action.IMAGE_READ, project=project)
        found = view(session, who, row)
    return found.model_copy(update={"usage": usage_of(service.parts.storage, Volume(Kind.IMAGE, found.id))})


@router.post(
    "/images/{image}/flatten",
    status_code=202,
    tags=["images"],
    dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ,))],
)
def flatten_image(
    service: TheService, who: Who, image: str, response: Response, project: InProject = None
) -> Operation:
    """Make an image independent of what it was made from, by copying what they have in common."""
    return accept(service, response, lambda session: images.ask_flatten(session, who, image, project))
