"""HTTP of editing images."""

from fastapi import APIRouter, Response

from bmi.access.policy import Action
from bmi.access.rules import asks
from bmi.api import image_edit as wire
from bmi.api.operations import Operation
from bmi.http import InProject, TheService, Who
from bmi.provisioning import image_edit
from bmi.provisioning.accept import accept

router = APIRouter()


@router.post(
    "/images/commit",
    status_code=202,
    tags=["images"],
    dependencies=[asks(Action.NODE_USE, Action.IMAGE_WRITE)],
)
def commit_image(service: TheService, who: Who, body: wire.ImageCommit, response: Response) -> Operation:
    """Make an image of a node's scratch clone, and give the node back."""
    return accept(service, response, lambda session: image_edit.ask_commit(session, who, body))


@router.post("/images/discard", status_code=202, tags=["images"], dependencies=[asks(Action.NODE_USE)])
def discard_image(service: TheService, who: Who, body: wire.ImageDiscard, response: Response) -> Operation:
    """Give a node back with its scratch clone."""
    return accept(service, response, lambda session: image_edit.ask_discard(session, who, body))


@router.post(
    "/images/{image}/edit",
    status_code=202,
    tags=["images"],
    dependencies=[asks(Action.IMAGE_READ, Action.IMAGE_WRITE, Action.NODE_USE, Action.NETWORK_READ)],
)
def edit_image(
    service: TheService,
    who: Who,
    image: str,
    body: wire.ImageEdit,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Boot a free node from a scratch clone of an image."""
    return accept(
        service,
        response,
        lambda session: image_edit.ask(session, service.parts, who, image, project, body),
    )
