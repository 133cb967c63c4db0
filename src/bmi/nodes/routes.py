"""HTTP of nodes."""

from fastapi import APIRouter, Response
from sqlalchemy import select

from bmi.access.policy import Action, authorize
from bmi.access.rules import asks
from bmi.access.service import find_owned, select_visible
from bmi.api import nodes as wire
from bmi.api.common import Page
from bmi.api.inventory import NodeBatch, NodeChange, NodesTaken
from bmi.api.operations import Event as WireEvent
from bmi.api.operations import Operation as WireOperation
from bmi.db import page
from bmi.drivers.power import PowerState
from bmi.events import Event
from bmi.http import InProject, Pages, TheService, Who
from bmi.nodes import inventory, leases
from bmi.nodes import service as nodes
from bmi.nodes.models import Node
from bmi.nodes.views import view_node
from bmi.provisioning import allocation, attach, cleaning, deprovision, power, provision
from bmi.provisioning.accept import accept
from bmi.provisioning.routes import view_event

router = APIRouter(tags=["nodes"])


@router.post("/nodes", status_code=201, dependencies=[asks(Action.NODE_WRITE)])
def register_node(service: TheService, who: Who, body: wire.NodeCreate) -> wire.Node:
    """Take a node into the inventory."""
    authorize(who, Action.NODE_WRITE, None, thing="the inventory")
    outside = inventory.look_at_switches(service.parts, (nic.switch for nic in body.nics))
    with service.parts.db.write() as session:
        node = inventory.register(session, service.parts, body, outside)
        session.refresh(node)
        return view_node(session, service.parts, who, node)


@router.post("/nodes/batch", dependencies=[asks(Action.NODE_WRITE)])
def register_nodes(service: TheService, who: Who, body: NodeBatch) -> NodesTaken:
    """Take many nodes into the inventory at once: all of them or none, unless asked otherwise."""
    authorize(who, Action.NODE_WRITE, None, thing="the inventory")
    return inventory.take_in(service.parts, body)


@router.get("/nodes", dependencies=[asks(Action.NODE_READ)])
def list_nodes(
    service: TheService,
    who: Who,
    paging: Pages,
    project: InProject = None,
    state: wire.NodeState | None = None,
) -> Page[wire.Node]:
    """List the project's nodes and the free ones, oldest first."""
    with service.parts.db.read() as session:
        query = select_visible(session, who, Node, Action.NODE_READ, project)
        if state is not None:
            query = query.where(Node.state == state)
        rows, following = page(session, query, Node, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[view_node(session, service.parts, who, row) for row in rows], next=following)


@router.get("/nodes/{node}", dependencies=[asks(Action.NODE_READ)])
def show_node(service: TheService, who: Who, node: str) -> wire.Node:
    """Show a node."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Node, node, Action.NODE_READ, project=None)
    lease = leases.lease_of(service.parts.leases, row)  # asked outside of any transaction
    with service.parts.db.read() as session:
        return view_node(session, service.parts, who, session.get_one(Node, row.id), lease)


@router.patch("/nodes/{node}", dependencies=[asks(Action.NODE_WRITE)])
def update_node(service: TheService, who: Who, node: str, body: NodeChange) -> wire.Node:
    """Change a node's name, how its management controller is reached, or its network cards."""
    with service.parts.db.read() as session:  # who may not is not to have switches asked
        find_owned(session, who, Node, node, Action.NODE_WRITE, project=None)
    outside = inventory.look_at_switches(service.parts, (nic.switch for nic in body.nics or ()))
    with service.parts.db.write() as session:
        row = find_owned(session, who, Node, node, Action.NODE_WRITE, project=None)
        changed = inventory.change(session, service.parts, row, body, outside)
        session.refresh(changed)
        return view_node(session, service.parts, who, changed)


@router.delete("/nodes/{node}", status_code=204, dependencies=[asks(Action.NODE_WRITE)])
def delete_node(service: TheService, who: Who, node: str) -> None:
    """Take a node that nobody uses out of the inventory."""
    with service.parts.db.write() as session:
        nodes.remove(session, find_owned(session, who, Node, node, Action.NODE_WRITE, project=None))


@router.post(
    "/nodes/{node}/provision",
    status_code=202,
    dependencies=[
        asks(Action.NODE_USE, Action.NETWORK_READ, sometimes=(Action.IMAGE_READ, Action.DISK_WRITE))
    ],
)
def provision_node(
    service: TheService, who: Who, node: str, body: wire.Provision, response: Response
) -> WireOperation:
    """Boot a node that is free, or allocated to the project, from a clone of an image, or from a disk."""
    own = str(who.project) if who.project else None
    leases.look(service.parts.db, service.parts.leases, body.project or own)
    return accept(service, response, lambda session: provision.ask(session, service.parts, who, node, body))


@router.post("/nodes/{node}/deprovision", status_code=202, dependencies=[asks(Action.NODE_USE)])
def deprovision_node(
    service: TheService, who: Who, node: str, body: wire.Deprovision, response: Response
) -> WireOperation:
    """Give a node back."""
    return accept(service, response, lambda session: deprovision.ask(session, who, node, body))


@router.post("/nodes/{node}/allocate", dependencies=[asks(Action.NODE_USE)])
def allocate_node(service: TheService, who: Who, node: str, body: wire.Allocate) -> wire.Node:
    """Let a free node belong to a project, without booting it; one that boots for the project stays with it."""
    own = str(who.project) if who.project else None
    leases.look(service.parts.db, service.parts.leases, body.project or own)
    with service.parts.db.write() as session:
        row = allocation.allocate(session, service.parts, who, node, body.project)
        return view_node(session, service.parts, who, row)


@router.post("/nodes/{node}/release", status_code=202, dependencies=[asks(Action.NODE_USE)])
def release_node(service: TheService, who: Who, node: str, response: Response) -> WireOperation:
    """Give a node that was allocated back, clean."""
    return accept(service, response, lambda session: deprovision.ask_release(session, who, node))


@router.post(
    "/nodes/{node}/attach", status_code=202, dependencies=[asks(Action.NODE_USE, Action.NETWORK_READ)]
)
def attach_node(
    service: TheService, who: Who, node: str, body: wire.Attach, response: Response
) -> WireOperation:
    """Put a node that runs on a network beside the one that it boots on."""
    return accept(service, response, lambda session: attach.ask(session, service.parts, who, node, body))


@router.post("/nodes/{node}/detach", status_code=202, dependencies=[asks(Action.NODE_USE)])
def detach_node(
    service: TheService, who: Who, node: str, body: wire.Detach, response: Response
) -> WireOperation:
    """Take a node off a network that it does not boot on."""
    return accept(service, response, lambda session: attach.ask_detach(session, who, node, body))


@router.post(
    "/nodes/{node}/reset",
    status_code=202,
    dependencies=[asks(Action.NODE_USE, sometimes=(Action.NODE_WRITE,))],
)
def reset_node(
    service: TheService, who: Who, node: str, body: wire.Reset, response: Response
) -> WireOperation:
    """Make a node available, whatever its record says."""
    return accept(service, response, lambda session: deprovision.ask_reset(session, who, node, body))


@router.post(
    "/nodes/{node}/clean",
    status_code=202,
    dependencies=[
        asks(Action.NODE_WRITE, sometimes=(Action.NODE_USE, Action.NETWORK_READ, Action.IMAGE_READ))
    ],
)
def clean_node(service: TheService, who: Who, node: str, response: Response) -> WireOperation:
    """Wipe the local disks of a node that is available."""
    return accept(service, response, lambda session: cleaning.ask(session, service.parts, who, node))


@router.post("/nodes/{node}/power", status_code=202, dependencies=[asks(Action.NODE_USE)])
def change_power(
    service: TheService, who: Who, node: str, body: wire.PowerRequest, response: Response
) -> WireOperation:
    """Switch a node on, off, or off and on again."""
    return accept(service, response, lambda session: power.ask(session, who, node, body))


@router.get("/nodes/{node}/power", dependencies=[asks(Action.NODE_READ)])
def show_power(service: TheService, who: Who, node: str) -> wire.Power:
    """Ask the node's management controller whether it has power."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Node, node, Action.NODE_READ, project=None)
    return wire.Power(state=nodes.power_state(service.parts, row.id).value)


@router.post("/nodes/{node}/power/said", dependencies=[asks(Action.NODE_WRITE)])
def say_power(service: TheService, who: Who, node: str, body: wire.PowerSaid) -> wire.Power:
    """Say that somebody has switched on or off, by hand, a node that has no management controller."""
    with service.parts.db.write() as session:
        row = find_owned(session, who, Node, node, Action.NODE_WRITE, project=None)
        nodes.say_power(session, service.parts, row, PowerState(body.state))
    return wire.Power(state=body.state)


@router.get("/nodes/{node}/events", dependencies=[asks(Action.NODE_READ)])
def list_node_events(service: TheService, who: Who, node: str, paging: Pages) -> Page[WireEvent]:
    """List a node's history, oldest first; a tenant sees his own part of it."""
    with service.parts.db.read() as session:
        row = find_owned(session, who, Node, node, Action.NODE_READ, project=None)
        query = select(Event).where(Event.node_id == row.id)
        if not who.admin:
            query = query.where(Event.project_id.in_(who.roles))
        rows, following = page(session, query, Event, limit=paging.limit, cursor=paging.cursor)
        return Page(items=[view_event(event) for event in rows], next=following)
