"""A free node comes to belong to a project, without being booted. Giving it back is `deprovision.ask_release`."""

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from bmi.access.policy import Action, Caller
from bmi.access.service import find_owned, owner
from bmi.api.nodes import NodeState
from bmi.errors import InUse, WrongState
from bmi.events import record
from bmi.images.quota import require_room
from bmi.nodes import leases
from bmi.nodes.models import Node
from bmi.nodes.states import move
from bmi.parts import Parts
from bmi.provisioning.models import Operation


def allocate(session: Session, parts: Parts, caller: Caller, ref: str, project: str | None) -> Node:
    """Give a free node to a project; one that has it already keeps it.

    Raises:
        NotFound: There is no such node or project for this caller.
        NotAllowed: The caller may not use nodes in that project.
        InUse: It is another project's, or an operation runs on it.
        WrongState: It is neither free nor the project's.
        NotLeased: The site's inventory has not given it to the project.
        QuotaExceeded: The project may not have as many nodes.
    """
    node = find_owned(session, caller, Node, ref, Action.NODE_USE, project=None)
    to = owner(session, caller, Action.NODE_USE, project)
    if node.project_id == to.id and node.state is not NodeState.DEPROVISIONING:
        node.allocated = True
        session.flush()
        return node
    if node.project is not None and node.project_id != to.id:
        raise InUse(f"node {node.name} belongs to project {node.project.name}", next_step="take another node")
    if node.state is not NodeState.AVAILABLE:
        raise WrongState(f"node {node.name} is {node.state}", next_step="wait until it is available")
    running = select(Operation).where(
        or_(Operation.node_id == node.id, Operation.second_node_id == node.id), Operation.ended_at.is_(None)
    )
    if other := session.scalar(running.limit(1)):
        raise InUse(
            f"node {node.name} is busy: {other.verb} of {other.subject} is {other.state}",
            next_step="wait until that has ended",
        )
    leases.take(parts.leases, node, to.name)
    require_room(session, to.id, nodes=1)
    move(node, NodeState.ALLOCATED)
    node.project, node.allocated, node.problem = to, True, None
    session.flush()
    words = f"allocated to project {to.name} by {caller.name}"
    record(session, "node.allocated", words, node=node.id, project=to.id)
    return node
