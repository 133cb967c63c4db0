"""HTTP of disks."""

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from bmi.access.policy import Action
from bmi.access.rules import asks
from bmi.access.service import find_owned, select_visible
from bmi.api import disks as wire
from bmi.api.common import Page
from bmi.api.operations import Operation
from bmi.db import page
from bmi.drivers.storage import Kind, Volume
from bmi.http import InProject, Pages, TheService, Who
from bmi.images.models import Disk
from bmi.images.service import node_of
from bmi.images.usage import usage_of
from bmi.provisioning import disk_adopt, disk_grow, disk_move, disk_roll_back, disks
from bmi.provisioning.accept import accept

router = APIRouter()


@router.post(
    "/disks", status_code=202, tags=["disks"], dependencies=[asks(Action.DISK_WRITE, Action.IMAGE_READ)]
)
def create_disk(service: TheService, who: Who, body: wire.DiskCreate, response: Response) -> Operation:
    """Clone an image."""
    return accept(service, response, lambda session: disks.ask_create(session, who, body))


@router.post(
    "/disks/adopt",
    status_code=202,
    tags=["disks"],
    dependencies=[asks(Action.IMAGE_BUILD, Action.DISK_WRITE)],
)
def adopt_disk(service: TheService, who: Who, body: wire.DiskAdopt, response: Response) -> Operation:
    """Make a disk of a content that lies in the store already, without copying it."""
    return accept(service, response, lambda session: disk_adopt.ask(session, who, body))


@router.get("/disks", tags=["disks"], dependencies=[asks(Action.DISK_READ)])
def list_disks(service: TheService, who: Who, paging: Pages, project: InProject = None) -> Page[wire.Disk]:
    """List the project's disks, oldest first."""
    with service.parts.db.read() as session:
        query = select_visible(session, who, Disk, Action.DISK_READ, project)
        rows, following = page(session, query, Disk, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[_disk(session, row) for row in rows], next=following)


@router.get("/disks/{disk}", tags=["disks"], dependencies=[asks(Action.DISK_READ)])
def show_disk(service: TheService, who: Who, disk: str, project: InProject = None) -> wire.Disk:
    """Show a disk."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Disk, disk, Action.DISK_READ, project=project)
        found = _disk(session, row)
    return found.model_copy(update={"usage": usage_of(service.parts.storage, Volume(Kind.DISK, found.id))})


@router.post("/disks/{disk}/flatten", status_code=202, tags=["disks"], dependencies=[asks(Action.DISK_WRITE)])
def flatten_disk(
    service: TheService, who: Who, disk: str, response: Response, project: InProject = None
) -> Operation:
    """Make a disk independent of its image, by copying what they have in common; a node may run on it."""
    return accept(service, response, lambda session: disks.ask_flatten(session, who, disk, project))


@router.post(
    "/disks/{disk}/rollback",
    status_code=202,
    tags=["disks"],
    dependencies=[asks(Action.DISK_WRITE, sometimes=(Action.IMAGE_READ, Action.IMAGE_WRITE))],
)
def roll_back_disk(
    service: TheService,
    who: Who,
    disk: str,
    body: wire.RollBack,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Make a disk what an image is; a node that runs from it is switched off and on."""
    return accept(service, response, lambda session: disk_roll_back.ask(session, who, disk, project, body))


@router.post("/disks/{disk}/grow", status_code=202, tags=["disks"], dependencies=[asks(Action.DISK_WRITE)])
def grow_disk(
    service: TheService, who: Who, disk: str, body: wire.Grow, response: Response, project: InProject = None
) -> Operation:
    """Make a disk larger."""
    return accept(service, response, lambda session: disk_grow.ask(session, who, disk, project, body))


@router.post(
    "/disks/{disk}/move",
    status_code=202,
    tags=["disks"],
    dependencies=[asks(Action.DISK_WRITE, Action.NODE_USE, sometimes=(Action.NETWORK_READ,))],
)
def move_disk(
    service: TheService, who: Who, disk: str, body: wire.Move, response: Response, project: InProject = None
) -> Operation:
    """Have a free node boot from a disk instead of the node that does now."""
    return accept(
        service,
        response,
        lambda session: disk_move.ask(session, service.parts, who, disk, project, body),
    )


@router.delete("/disks/{disk}", status_code=202, tags=["disks"], dependencies=[asks(Action.DISK_WRITE)])
def delete_disk(
    service: TheService, who: Who, disk: str, response: Response, project: InProject = None
) -> Operation:
    """Remove a disk that no node boots from."""
    return accept(service, response, lambda session: disks.ask_delete(session, who, disk, project))


@router.post(
    "/disks/{disk}/snapshot",
    status_code=202,
    tags=["disks"],
    dependencies=[asks(Action.DISK_READ, Action.IMAGE_WRITE)],
)
def snapshot_disk(
    service: TheService,
    who: Who,
    disk: str,
    body: wire.SnapshotCreate,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Make an image of a disk as it is now; a node may be running on it."""
    return accept(service, response, lambda session: disks.ask_snapshot(session, who, disk, project, body))


def _disk(session: Session, row: Disk) -> wire.Disk:
    return wire.Disk(
        id=row.id,
        name=row.name,
        project=row.project.name,
        state=row.state,
        image=row.image_id,
        image_name=row.image.name if row.image else None,
        node=node_of(session, row),
        size=row.size,
        created_at=row.created_at,
    )
