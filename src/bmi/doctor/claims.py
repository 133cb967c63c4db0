"""What operations that run have claimed: it changes while the doctor looks, and is theirs to end or undo."""

from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.boot.models import Boot
from bmi.provisioning.models import Operation


@dataclass(frozen=True)
class Claims:
    """The ids of nodes, disks, images, networks and boot records that running operations have to do with."""

    ids: frozenset[UUID]

    def __contains__(self, id: UUID) -> bool:
        return id in self.ids


def claims(session: Session) -> Claims:
    """Return what is claimed now."""
    columns = (
        Operation.node_id,
        Operation.second_node_id,
        Operation.disk_id,
        Operation.image_id,
        Operation.network_id,
    )
    running = session.execute(select(*columns).where(Operation.ended_at.is_(None))).all()
    found: set[UUID] = {id for row in running for id in row if id is not None}
    # A disk of a node that is given back may be gone before its row.
    for boot in session.execute(select(Boot.id, Boot.disk_id).where(Boot.node_id.in_(found))).all():
        found.update(boot)
    return Claims(frozenset(found))
