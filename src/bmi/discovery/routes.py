"""HTTP of machines that were discovered."""

from fastapi import APIRouter
from sqlalchemy import select

from bmi.access.policy import Action, authorize
from bmi.access.rules import asks
from bmi.api import discovery as wire
from bmi.api.common import Page
from bmi.api.nodes import Node
from bmi.db import page
from bmi.discovery import service as discovery
from bmi.discovery.models import Discovered
from bmi.http import Pages, TheService, Who
from bmi.nodes import inventory
from bmi.nodes.views import view_node

router = APIRouter(tags=["nodes"])

_THING = "machines that were discovered"


@router.get("/discovered", dependencies=[asks(Action.NODE_WRITE)])
def list_discovered(service: TheService, who: Who, paging: Pages) -> Page[wire.Discovered]:
    """List the machines that nobody has enrolled yet, oldest first."""
    authorize(who, Action.NODE_WRITE, None, thing=_THING)
    with service.parts.db.read() as session:
        rows, following = page(
            session, select(Discovered), Discovered, limit=paging.limit, cursor=paging.cursor
        )
        return Page(items=[discovery.view(session, row) for row in rows], next=following)


@router.get("/discovered/{machine}", dependencies=[asks(Action.NODE_WRITE)])
def show_discovered(service: TheService, who: Who, machine: str) -> wire.DiscoveredCabling:
    """Show a machine, and which switch ports it heard."""
    authorize(who, Action.NODE_WRITE, None, thing=_THING)
    outside = inventory.look_at_switches(service.parts, service.parts.switches)
    with service.parts.db.read() as session:
        row = discovery.find(session, machine)
        found = discovery.view(session, row)
        places = discovery.places(service.parts, row, outside)
    return wire.DiscoveredCabling.model_validate({**found.model_dump(), "places": places})


@router.post("/discovered/{machine}/enrol", status_code=201, dependencies=[asks(Action.NODE_WRITE)])
def enrol_discovered(service: TheService, who: Who, machine: str, body: wire.Enrol) -> Node:
    """Make a node of a machine."""
    authorize(who, Action.NODE_WRITE, None, thing=_THING)
    outside = inventory.look_at_switches(service.parts, service.parts.switches)
    with service.parts.db.write() as session:
        row = discovery.find(session, machine)
        node = discovery.enrol(session, service.parts, row, body, outside)
        session.refresh(node)
        return view_node(session, service.parts, who, node)


@router.delete("/discovered/{machine}", status_code=204, dependencies=[asks(Action.NODE_WRITE)])
def forget_discovered(service: TheService, who: Who, machine: str) -> None:
    """Forget a machine, until it reports again."""
    authorize(who, Action.NODE_WRITE, None, thing=_THING)
    with service.parts.db.write() as session:
        session.delete(discovery.find(session, machine))
