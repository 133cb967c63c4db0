"""HTTP of what happens to images while they live."""

from fastapi import APIRouter, Response

from bmi.access.policy import Action
from bmi.access.rules import asks
from bmi.api import image_life as wire
from bmi.api.common import Page
from bmi.api.images import Image
from bmi.api.operations import Operation
from bmi.http import InProject, TheService, Who
from bmi.images import life
from bmi.images.models import ImageShare
from bmi.images.views import view
from bmi.provisioning import images
from bmi.provisioning import life as operations
from bmi.provisioning.accept import accept

router = APIRouter(tags=["images"])


@router.patch(
    "/images/{image}",
    dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ, Action.IMAGE_PUBLISH))],
)
def change_image(
    service: TheService, who: Who, image: str, body: wire.ImageChange, project: InProject = None
) -> Image:
    """Change an image's name, words and labels, and who may use it."""
    with service.parts.db.write() as session:
        return view(session, who, life.change(session, who, image, project, body))


@router.get("/images/{image}/shares", dependencies=[asks(Action.IMAGE_SHARES)])
def list_shares(
    service: TheService, who: Who, image: str, project: InProject = None
) -> Page[wire.ImageShare]:
    """List the projects that an image is shared with, all in one page."""
    with service.parts.db.read() as session:
        rows = life.shares(session, who, image, project)
        return Page(items=[_share(row) for row in rows], next=None)


@router.put(
    "/images/{image}/shares/{other}", dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ,))]
)
def share_image(
    service: TheService, who: Who, image: str, other: str, project: InProject = None
) -> wire.ImageShare:
    """Let another project list, read and clone an image. It is named by its id; admins may use its name."""
    with service.parts.db.write() as session:
        return _share(life.share(session, who, image, project, other))


@router.delete(
    "/images/{image}/shares/{other}",
    status_code=204,
    dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ,))],
)
def unshare_image(service: TheService, who: Who, image: str, other: str, project: InProject = None) -> None:
    """Let a project use an image no longer; what it made of it stays whole."""
    with service.parts.db.write() as session:
        life.unshare(session, who, image, project, other)


@router.post(
    "/images/{image}/copy",
    status_code=202,
    dependencies=[asks(Action.IMAGE_READ, Action.IMAGE_WRITE, sometimes=(Action.IMAGE_PUBLISH,))],
)
def copy_image(
    service: TheService,
    who: Who,
    image: str,
    body: wire.ImageCopy,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Make an image with the same content, also of one that another project shares, without copying it."""
    return accept(service, response, lambda session: operations.ask_copy(session, who, image, project, body))


@router.post(
    "/images/{image}/move",
    dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ, Action.IMAGE_PUBLISH))],
)
def move_image(
    service: TheService, who: Who, image: str, body: wire.ImageMove, project: InProject = None
) -> Image:
    """Give an image to another project, as a private one."""
    with service.parts.db.write() as session:
        return view(session, who, life.move(session, who, image, project, body))


@router.post(
    "/images/{image}/promote",
    status_code=202,
    dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ, Action.IMAGE_PUBLISH))],
)
def promote_image(
    service: TheService,
    who: Who,
    image: str,
    body: wire.ImagePromote,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Make a golden image of a snapshot, and make it independent of the disk that it was taken from."""
    return accept(
        service, response, lambda session: operations.ask_promote(session, who, image, project, body)
    )


@router.delete("/images/{image}", dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ,))])
def delete_image(service: TheService, who: Who, image: str, project: InProject = None) -> Image:
    """Put an image into the trash; disks and images made of it stay whole."""
    with service.parts.db.write() as session:
        return view(session, who, operations.trash(session, service.parts, who, image, project))


@router.post(
    "/images/{image}/undelete", dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ,))]
)
def undelete_image(
    service: TheService, who: Who, image: str, body: wire.ImageUndelete, project: InProject = None
) -> Image:
    """Take an image out of the trash."""
    with service.parts.db.write() as session:
        return view(session, who, life.undelete(session, who, image, project, body))


@router.post(
    "/images/{image}/purge",
    status_code=202,
    dependencies=[asks(Action.IMAGE_WRITE, sometimes=(Action.IMAGE_READ,))],
)
def purge_image(
    service: TheService, who: Who, image: str, response: Response, project: InProject = None
) -> Operation:
    """Remove an image for good, in the trash or not; disks and images made of it stay whole."""
    return accept(service, response, lambda session: images.ask_delete(session, who, image, project))


def _share(row: ImageShare) -> wire.ImageShare:
    return wire.ImageShare(project=row.project.name, project_id=row.project_id, created_at=row.created_at)
