"""HTTP of the import of nodes from the site's inventory."""

from fastapi import APIRouter

from bmi.access.models import Project
from bmi.access.policy import Action, authorize
from bmi.access.rules import asks
from bmi.access.service import find
from bmi.api import nodes as wire
from bmi.api.common import Page
from bmi.http import TheService, Who
from bmi.nodes.importing import take_over

router = APIRouter(tags=["nodes"])


@router.post("/nodes/import", dependencies=[asks(Action.NODE_WRITE)])
def import_nodes(service: TheService, who: Who, body: wire.NodeImport) -> Page[wire.ImportedNode]:
    """Take over a page of the nodes that the site's inventory gives to a project, in the order of their names."""
    authorize(who, Action.NODE_WRITE, None, thing="the inventory")
    with service.parts.db.read() as session:
        project = find(session, Project, body.project, thing="project", limit_to=None).name
    return take_over(service.parts, body, project)
