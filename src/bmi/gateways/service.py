"""Use cases of gateways: which are alive, which one carries a new export, who acts for whom.

A gateway acts for itself as long as it lives. When it has died another one takes its place, with its addresses and
everything that nodes had from it, until it is back and is given its place again. The database decides who that
is, in one transaction; the kernel sees to it that the dead one has its addresses no more (see the legs' leases).
"""

import socket
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from sqlalchemy import func, or_, select
from sqlalchemy.orm import Session

from bmi.boot.models import Boot
from bmi.db import Db
from bmi.errors import GatewayUnavailable, SettingsInvalid
from bmi.gateways.models import Gateway
from bmi.ids import new_id
from bmi.parts import GatewayParts
from bmi.settings import Settings

BEAT = 2.0  # seconds between two signs of life
DEAD_AFTER = 10.0  # seconds without one, after which a process counts as dead
LEASE = 14  # seconds that a gateway keeps its addresses after it died: longer than a busy host ever pauses
EMPTY_AFTER = LEASE + 2.0  # seconds after which a dead gateway's place can be taken: its addresses are gone

_ID_FILE = "gateway"


def register(db: Db, settings: Settings) -> Gateway:
    """Return this host's row, made if there is none; a file in the state folder remembers which it is.

    Raises:
        SettingsInvalid: Another host has the name, or networks have no addresses for one more gateway.
    """
    name = settings.gateway.name or socket.gethostname()
    file = settings.state_dir / _ID_FILE
    with db.write() as session:
        row = _known(session, file) if db.shared else session.scalar(select(Gateway))
        other = session.scalar(select(Gateway).where(Gateway.name == name))
        if other is not None and row is not None and other.id != row.id:
            raise SettingsInvalid(
                f"another gateway is named {name}", next_step="choose another name: BMI_GATEWAY__NAME"
            )
        if row is None:
            row = other or _new(session, name, settings.networks.gateways)
        row.name = name
        row.seen_at = db.clock(session)
        session.flush()
    file.write_text(f"{row.id}\n")
    return row


def acting(session: Session, here: GatewayParts) -> set[UUID]:
    """Return the gateways for which one acts; itself is not among them while another one acts for it."""
    mine = or_(Gateway.held_by_id == here.id, (Gateway.id == here.id) & Gateway.held_by_id.is_(None))
    return set(session.scalars(select(Gateway.id).where(mine))) - here.leaving


def first(session: Session) -> UUID | None:
    """Return the gateway with the lowest number, dead or alive."""
    return session.scalar(select(Gateway.id).order_by(Gateway.number).limit(1))


def alive(db: Db, session: Session) -> Sequence[Gateway]:
    """Return the gateways that were heard of lately, by number."""
    return [row for row in _all(session) if lives(db, session, row)]


def lives(db: Db, session: Session, gateway: Gateway, *, within: float = DEAD_AFTER) -> bool:
    """Say whether a gateway was heard of lately; where processes share no database there is only this one."""
    return not db.shared or gateway.seen_at > db.clock(session) - timedelta(seconds=within)


def choose(db: Db, session: Session) -> Gateway:
    """Return the gateway with the fewest boots, of those that are alive and act for themselves.

    Raises:
        GatewayUnavailable: There is none.
    """
    loads = select(Boot.gateway_id, func.count()).group_by(Boot.gateway_id)
    counts: dict[UUID, int] = {row[0]: row[1] for row in session.execute(loads)}
    free = [row for row in alive(db, session) if row.held_by_id is None]
    if not free:
        raise GatewayUnavailable(
            "no gateway is alive, so nothing can be exported", next_step="start one: bmi gateway"
        )
    return min(free, key=lambda row: (counts.get(row.id, 0), row.number))


def empty_places(db: Db, session: Session, me: UUID) -> list[Gateway]:
    """Return the gateways whose place one could take: they died, and so did who acted for them, if anybody did.

    One's own place comes first: as long as it is not empty, others' are left to others.
    """
    rows = {row.id: row for row in _all(session)}

    def is_empty(row: Gateway) -> bool:
        holder = rows[row.held_by_id or row.id]
        return holder.id != me and not lives(db, session, holder, within=EMPTY_AFTER)

    mine = rows[me]
    if mine.held_by_id is not None:
        return [mine] if is_empty(mine) else []
    return [row for row in rows.values() if is_empty(row) and not lives(db, session, row, within=EMPTY_AFTER)]


def fill_in(db: Db, session: Session, me: UUID) -> list[Gateway]:
    """Take the places that are empty; returns them."""
    taken = empty_places(db, session, me)
    for row in taken:
        row.held_by_id = None if row.id == me else me
    return taken


def returned(db: Db, session: Session, me: UUID) -> list[Gateway]:
    """Return the gateways for which this one acts although they are alive again."""
    return [row for row in _all(session) if row.held_by_id == me and lives(db, session, row)]


def give_back(session: Session, id: UUID, me: UUID) -> None:
    """Let a gateway act for itself again."""
    row = session.get_one(Gateway, id)
    if row.held_by_id == me:
        row.held_by_id = None


def _all(session: Session) -> Sequence[Gateway]:
    return session.scalars(select(Gateway).order_by(Gateway.number)).all()


def _known(session: Session, file: Path) -> Gateway | None:
    try:
        return session.get(Gateway, UUID(file.read_text().strip()))
    except (FileNotFoundError, ValueError):
        return None


def _new(session: Session, name: str, limit: int) -> Gateway:
    taken = {row.number for row in _all(session)}
    number = next(number for number in range(1, len(taken) + 2) if number not in taken)
    if number > limit:
        raise SettingsInvalid(
            f"networks have addresses for {limit} gateways, and {name} would be one more",
            next_step="raise networks.gateways before networks are made, or remove a gateway",
        )
    row = Gateway(id=new_id(), name=name, number=number)
    session.add(row)
    return row
