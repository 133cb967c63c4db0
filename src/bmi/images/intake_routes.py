"""HTTP of images that come in and go out."""

import base64
from uuid import UUID

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse

from bmi.access.policy import Action
from bmi.access.rules import asks
from bmi.api import intake as wire
from bmi.api.operations import Operation
from bmi.http import InProject, TheService, Who
from bmi.provisioning import image_export, image_import
from bmi.provisioning.accept import accept

router = APIRouter(tags=["images"])

_BINARY = "application/octet-stream"


@router.post("/images/import", status_code=202, dependencies=[asks(Action.IMAGE_WRITE)])
def import_image(service: TheService, who: Who, body: wire.ImageImport, response: Response) -> Operation:
    """Make an image of an upload, or of what a URL leads to."""
    return accept(service, response, lambda session: image_import.ask(session, service.parts, who, body))


@router.post("/images/{image}/export", status_code=202, dependencies=[asks(Action.IMAGE_EXPORT)])
def export_image(
    service: TheService,
    who: Who,
    image: str,
    body: wire.ImageExport,
    response: Response,
    project: InProject = None,
) -> Operation:
    """Write an image into a file, to be fetched from /exports/{operation}."""
    return accept(
        service,
        response,
        lambda session: image_export.ask(session, service.parts, who, image, project, body),
    )


@router.get(
    "/exports/{operation}",
    response_class=FileResponse,
    responses={
        200: {
            "content": {_BINARY: {}},
            "description": "The file; `Range` asks for a part, `Repr-Digest` (RFC 9530) is the whole file's",
        }
    },
    dependencies=[asks(Action.IMAGE_WRITE)],
)
def fetch_export(service: TheService, who: Who, operation: UUID) -> FileResponse:
    """Fetch an exported image."""
    with service.parts.db.read() as session:
        row, path = image_export.find(session, service.parts, who, operation)
        name = f"{row.result['image']}.{row.result['format']}"
        sha = bytes.fromhex(row.result["digest"].removeprefix("sha256:"))
    return FileResponse(
        path,
        media_type=_BINARY,
        filename=name,
        headers={"Repr-Digest": f"sha-256=:{base64.b64encode(sha).decode()}:", "Cache-Control": "no-store"},
    )


@router.delete("/exports/{operation}", status_code=204, dependencies=[asks(Action.IMAGE_WRITE)])
def remove_export(service: TheService, who: Who, operation: UUID) -> None:
    """Remove an exported image before its time."""
    with service.parts.db.read() as session:
        image_export.remove(session, service.parts, who, operation)
