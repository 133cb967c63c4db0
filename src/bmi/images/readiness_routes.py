"""HTTP of readiness for network boot."""

from fastapi import APIRouter, Response

from bmi.access.policy import Action
from bmi.access.rules import asks
from bmi.access.service import find_owned
from bmi.api import readiness as wire
from bmi.api.operations import Operation
from bmi.http import InProject, TheService, Who
from bmi.images.models import Image
from bmi.provisioning import image_check, image_prepare
from bmi.provisioning.accept import accept

router = APIRouter()


@router.post(
    "/images/{image}/check",
    status_code=202,
    tags=["images"],
    dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ,))],
)
def check_image(
    service: TheService, who: Who, image: str, response: Response, project: InProject = None
) -> Operation:
    """Look into an image: can it boot over iSCSI, and if not, why."""
    return accept(service, response, lambda session: image_check.ask(session, who, image, project))


@router.post(
    "/images/{image}/prepare",
    status_code=202,
    tags=["images"],
    dependencies=[asks(Action.IMAGE_READ, Action.IMAGE_WRITE)],
)
def prepare_image(
    service: TheService,
    who: Who,
    image: str,
    body: wire.ImagePrepare,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Make a new image from an image, ready for network boot; the one that is there stays as it is."""
    return accept(service, response, lambda session: image_prepare.ask(session, who, image, project, body))


@router.get("/images/{image}/readiness", tags=["images"], dependencies=[asks(Action.IMAGE_READ)])
def show_readiness(service: TheService, who: Who, image: str, project: InProject = None) -> wire.Readiness:
    """Show what the last check of an image found, and what was changed in it."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Image, image, Action.IMAGE_READ, project=project)
        return wire.Readiness(
            image=row.name,
            report=wire.Report.model_validate(row.report) if row.report else None,
            changes=row.changes.get("changes", []) if row.changes else None,
        )
