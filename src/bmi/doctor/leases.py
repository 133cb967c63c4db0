"""Looks whether the site's inventory still gives the nodes in use to their projects."""

from collections import defaultdict
from collections.abc import Sequence
from functools import partial

from sqlalchemy import select

from bmi.api.doctor import Family
from bmi.doctor.codes import Code
from bmi.doctor.sheet import Check, Sheet
from bmi.nodes.leases import Leases, lost
from bmi.nodes.models import Node
from bmi.parts import Parts


def checks(parts: Parts) -> list[Check]:
    """Return what there is to look at: each project of the inventory whose nodes are in use."""
    if parts.leases is None:
        return []
    with parts.db.read() as session:
        used = session.scalars(
            select(Node).where(Node.inventory_name.is_not(None), Node.project_id.is_not(None))
        ).all()
    by_project: defaultdict[str, list[Node]] = defaultdict(list)
    for node in used:
        by_project[node.inventory_project or ""].append(node)
    return [
        Check(
            Family.INVENTORY,
            f"project {listed} of the site's inventory",
            partial(_project, parts, parts.leases, listed, nodes),
        )
        for listed, nodes in by_project.items()
    ]


def _project(parts: Parts, leases: Leases, listed: str, nodes: Sequence[Node], sheet: Sheet) -> None:
    there = leases.nodes(listed)
    with parts.db.read() as session:
        now = {node.id: node for node in session.scalars(select(Node).where(Node.project_id.is_not(None)))}
    for node in nodes:
        same = now.get(node.id)
        if node.inventory_name in there or same is None or same.inventory_project != node.inventory_project:
            continue  # or somebody gave it back meanwhile
        message = f"does not belong to project {listed} in the site's inventory any more"
        sheet.note(Code.LEASE_ENDED, f"node {node.name}", message, next_step=lost(node))
