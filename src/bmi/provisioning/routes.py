"""HTTP of operations: lists, waiting, following, cancelling; and the members."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller, authorize, unknown
from bmi.access.rules import asks
from bmi.access.service import find_owned, select_visible
from bmi.api import operations as wire
from bmi.api.common import Page
from bmi.api.members import Member
from bmi.db import page
from bmi.events import Event
from bmi.http import InProject, Pages, Service, TheService, Who
from bmi.nodes.models import Node
from bmi.provisioning import service as operations
from bmi.provisioning.accept import accept, view
from bmi.provisioning.members import members
from bmi.provisioning.models import Operation

router = APIRouter(tags=["operations"])

_POLL = 0.1  # seconds between two looks at a followed operation
_KEEP_ALIVE = 15.0  # seconds of silence after which a comment line is sent
_LONGEST_WAIT = 30.0  # seconds of one long poll


@router.get("/operations", dependencies=[asks(Action.OPERATION_READ, sometimes=(Action.NODE_READ,))])
def list_operations(
    service: TheService,
    who: Who,
    paging: Pages,
    project: InProject = None,
    state: wire.OperationState | None = None,
    node: str | None = None,
) -> Page[wire.Operation]:
    """List operations, oldest first."""
    with service.parts.db.read() as session:
        query = select_visible(session, who, Operation, Action.OPERATION_READ, project)
        if state is not None:
            query = query.where(Operation.state == state)
        if node is not None:
            id = find_owned(session, who, Node, node, Action.NODE_READ, project=None).id
            query = query.where(or_(Operation.node_id == id, Operation.second_node_id == id))
        rows, following = page(session, query, Operation, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[view(row) for row in rows], next=following)


@router.get("/operations/{operation}", dependencies=[asks(Action.OPERATION_READ)])
async def show_operation(
    service: TheService,
    who: Who,
    operation: UUID,
    wait: Annotated[float, Query(ge=0, le=_LONGEST_WAIT, description="Seconds to wait for its end")] = 0,
) -> wire.Operation:
    """Show an operation; with `wait`, once it has ended or the time is over."""
    end = time.monotonic() + wait
    while True:
        found = await run_in_threadpool(_show, service, who, operation)
        if found.state.ended or time.monotonic() >= end:
            return found
        await asyncio.sleep(_POLL)


@router.get(
    "/operations/{operation}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}, "description": "The operation, at every change"}},
    dependencies=[asks(Action.OPERATION_READ)],
)
async def follow_operation(service: TheService, who: Who, operation: UUID) -> StreamingResponse:
    """Follow an operation as server-sent events; the stream ends with the operation."""
    first = await run_in_threadpool(_show, service, who, operation)
    return StreamingResponse(_changes(service, who, first), media_type="text/event-stream")


@router.get("/operations/{operation}/history", dependencies=[asks(Action.OPERATION_READ)])
def list_operation_events(service: TheService, who: Who, operation: UUID, paging: Pages) -> Page[wire.Event]:
    """List what happened in an operation, oldest first."""
    _show(service, who, operation)
    with service.parts.db.read() as session:
        query = select(Event).where(Event.operation_id == operation)
        rows, following = page(session, query, Event, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[view_event(row) for row in rows], next=following)


@router.post("/operations/{operation}/cancel", status_code=202, dependencies=[asks(Action.OPERATION_CANCEL)])
def cancel_operation(service: TheService, who: Who, operation: UUID, response: Response) -> wire.Operation:
    """Ask an operation to stop and undo what it did."""
    with service.parts.db.write() as session:
        row = session.get(Operation, operation)
        if row is None:
            raise unknown(f"operation {operation}")
        authorize(who, Action.OPERATION_CANCEL, row.project_id, thing=f"operation {operation}")
        operations.cancel(session, row)
        response.headers["Location"] = f"/v1/operations/{operation}"
        return view(row)


@router.post(
    "/operations/{operation}/retry",
    status_code=202,
    dependencies=[asks(Action.OPERATION_RETRY, sometimes=tuple(Action))],
)
def retry_operation(service: TheService, who: Who, operation: UUID, response: Response) -> wire.Operation:
    """Ask again for what an operation did not bring about; the answer is a new operation."""

    def ask(session: Session) -> Operation:
        row = session.get(Operation, operation)
        if row is None:
            raise unknown(f"operation {operation}")
        authorize(who, Action.OPERATION_RETRY, row.project_id, thing=f"operation {operation}")
        return operations.retry(session, service.parts, who, row)

    return accept(service, response, ask)


@router.get("/members", tags=["members"], dependencies=[asks(Action.MEMBERS)])
def list_members(service: TheService, who: Who) -> Page[Member]:
    """List the gateways and workers of this installation; there are a handful, so on one page."""
    authorize(who, Action.MEMBERS, None, thing="the system")
    with service.parts.db.read() as session:
        return Page(items=members(service.parts.db, session), next=None)


def view_event(row: Event) -> wire.Event:
    """Return an event as it goes over the wire."""
    return wire.Event(
        id=row.id,
        at=row.at,
        kind=row.kind,
        message=row.message,
        node=row.node.name if row.node else None,
        operation=row.operation_id,
    )


def _show(service: Service, who: Caller, id: UUID) -> wire.Operation:
    with service.parts.db.read() as session:
        row = session.get(Operation, id)
        if row is None:
            raise unknown(f"operation {id}")
        authorize(who, Action.OPERATION_READ, row.project_id, thing=f"operation {id}")
        return view(row)


async def _changes(service: Service, who: Caller, first: wire.Operation) -> AsyncIterator[str]:
    sent, silent_since = "", time.monotonic()
    found = first
    while True:
        text = found.model_dump_json()
        if text != sent:
            yield f"event: operation\ndata: {text}\n\n"
            sent, silent_since = text, time.monotonic()
        elif time.monotonic() - silent_since > _KEEP_ALIVE:
            yield ": still here\n\n"
            silent_since = time.monotonic()
        if found.state.ended:
            return
        await asyncio.sleep(_POLL)
        found = await run_in_threadpool(_show, service, who, first.id)
