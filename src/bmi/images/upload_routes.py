"""HTTP of uploads."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from bmi.access.policy import Action, authorize_somewhere
from bmi.access.rules import asks
from bmi.access.service import select_visible
from bmi.api import intake as wire
from bmi.api.common import Page
from bmi.db import page
from bmi.http import InProject, Pages, Service, TheService, Who
from bmi.images import uploads
from bmi.images.models import Upload

router = APIRouter(tags=["uploads"])

_SILENCE = (
    60.0  # seconds without a byte, after which a connection is taken for dead and lets go of its upload
)
_PIECE = 1 << 20  # bytes that are written at once


@router.post("/uploads", status_code=201, dependencies=[asks(Action.IMAGE_WRITE)])
def create_upload(service: TheService, who: Who, body: wire.UploadCreate) -> wire.Upload:
    """Announce a file; its bytes are sent afterwards."""
    with service.parts.db.write() as session:
        return uploads.view(session, uploads.create(session, service.parts, who, body))


@router.get("/uploads", dependencies=[asks(Action.IMAGE_WRITE)])
def list_uploads(
    service: TheService, who: Who, paging: Pages, project: InProject = None
) -> Page[wire.Upload]:
    """List uploads that are no images yet, oldest first."""
    with service.parts.db.read() as session:
        authorize_somewhere(who, Action.IMAGE_WRITE, thing="uploads")
        query = select_visible(session, who, Upload, Action.IMAGE_WRITE, project)
        rows, following = page(session, query, Upload, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[uploads.view(session, row) for row in rows], next=following)


@router.get("/uploads/{upload}", dependencies=[asks(Action.IMAGE_WRITE)])
def show_upload(service: TheService, who: Who, upload: UUID) -> wire.Upload:
    """Show an upload, with the place to send on from."""
    with service.parts.db.read() as session:
        return uploads.view(session, uploads.find(session, who, upload))


@router.patch(
    "/uploads/{upload}",
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
    dependencies=[asks(Action.IMAGE_WRITE)],
)
async def send_piece(
    service: TheService,
    who: Who,
    upload: UUID,
    request: Request,
    offset: Annotated[int, Query(ge=0, description="Where the piece begins; what has been received")],
) -> wire.Upload:
    """Send a piece of a file. What has arrived of a piece that breaks off counts too."""
    receiving = await run_in_threadpool(uploads.Receiving, service.parts, who, upload, offset)
    try:
        try:
            async for piece in _pieces(request):
                await run_in_threadpool(receiving.take, piece)
        except (ClientDisconnect, TimeoutError):
            pass  # what has arrived is kept; nobody reads the answer
        await run_in_threadpool(receiving.write_down)
    finally:
        receiving.close()
    return await run_in_threadpool(_shown, service, who, upload)


@router.delete("/uploads/{upload}", status_code=204, dependencies=[asks(Action.IMAGE_WRITE)])
def remove_upload(service: TheService, who: Who, upload: UUID) -> None:
    """Remove an upload."""
    with service.parts.db.write() as session:
        uploads.remove(session, service.parts, who, upload)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """Go through a request's body as it comes, in pieces that are worth a write."""
    stream, gathered = request.stream().__aiter__(), bytearray()
    try:
        while chunk := await _next(stream):
            gathered += chunk
            if len(gathered) >= _PIECE:
                yield bytes(gathered)
                gathered.clear()
    except (ClientDisconnect, TimeoutError):
        if gathered:
            yield bytes(gathered)
        raise
    if gathered:
        yield bytes(gathered)


async def _next(stream: AsyncIterator[bytes]) -> bytes:
    """Return the next bytes; nothing at the end."""
    while True:
        try:
            chunk = await asyncio.wait_for(anext(stream), _SILENCE)
        except StopAsyncIteration:
            return b""
        if chunk:
            return chunk


def _shown(service: Service, who: Who, upload: UUID) -> wire.Upload:
    with service.parts.db.read() as session:
        return uploads.view(session, uploads.find(session, who, upload))
