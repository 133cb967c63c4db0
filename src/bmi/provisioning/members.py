"""Which processes the installation has, and which of them live."""

from datetime import timedelta

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from bmi.api.members import Member
from bmi.boot.models import Boot
from bmi.db import Db
from bmi.gateways.models import Gateway
from bmi.gateways.service import lives
from bmi.provisioning.models import Operation, Worker
from bmi.provisioning.workers import dead_workers

_FORGOTTEN = timedelta(days=1)  # after which a worker that is gone is not listed any more


def members(db: Db, session: Session) -> list[Member]:
    """Return the gateways by number, then the workers by name."""
    gateways = session.scalars(select(Gateway).order_by(Gateway.number)).all()
    names = {row.id: row.name for row in gateways}
    exports = select(Boot.gateway_id, func.count()).where(Boot.exported).group_by(Boot.gateway_id)
    exported = {row[0]: row[1] for row in session.execute(exports)}
    running = select(Operation.worker, func.count()).where(Operation.ended_at.is_(None))
    carried = {row[0]: row[1] for row in session.execute(running.group_by(Operation.worker))}
    dead = dead_workers(db, session)
    recent = select(Worker).where(Worker.seen_at > db.clock(session) - _FORGOTTEN).order_by(Worker.name)
    return [
        *(
            Member(
                role="gateway",
                name=row.name,
                alive=lives(db, session, row),
                seen_at=row.seen_at,
                acted_for_by=names[row.held_by_id] if row.held_by_id else None,
                load=exported.get(row.id, 0),
            )
            for row in gateways
        ),
        *(
            Member(
                role="worker",
                name=row.name,
                alive=not db.shared or row.name not in dead,
                seen_at=row.seen_at,
                load=carried.get(row.name, 0),
            )
            for row in session.scalars(recent)
        ),
    ]
