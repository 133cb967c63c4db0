"""Looks at everything: in this process, and on every gateway."""

from functools import partial

from sqlalchemy import select

from bmi.api.doctor import Family, Finding, Report
from bmi.doctor import environment, leases, operations, power, storage, switches
from bmi.doctor.gateway import EXAMINE, PROBE
from bmi.doctor.sheet import Check, Sheet, carry_out
from bmi.errors import BmiError
from bmi.gateways import service as gateways
from bmi.gateways.models import Gateway
from bmi.gateways.orders import DEADLINE, at_gateway
from bmi.parts import Parts

_DEADLINE = 20.0  # seconds for what this process looks at
_BMC_DEADLINE = 10.0  # seconds for all management controllers
_BMCS = 64  # that are asked at a time


def examine(parts: Parts, *, quick: bool = False) -> Report:
    """Compare reality with the database, look at what is around, and change nothing.

    Args:
        parts: The parts of this process.
        quick: Whether to leave out asking the networks for foreign DHCP servers, which takes some seconds.
    """
    sheet = Sheet()
    look_at_gateways = [
        Check(
            Family.GATEWAY,
            f"gateway {row.name}",
            partial(_ask, parts, row, verb),
        )
        for row in asked(parts)
        for verb in ((EXAMINE,) if quick else (EXAMINE, PROBE))
    ]
    here = [
        *environment.checks(parts),
        *operations.checks(parts),
        *leases.checks(parts),
        *storage.checks(parts),
    ]
    groups = [
        Check(
            Family.POWER,
            "management controllers",
            lambda sheet: carry_out(sheet, power.checks(parts), deadline=_BMC_DEADLINE, width=_BMCS),
        ),
        Check(
            Family.SWITCH,
            "switches",
            lambda sheet: carry_out(sheet, switches.checks(parts), deadline=_DEADLINE),
        ),
        Check(Family.ENVIRONMENT, "this process", lambda sheet: carry_out(sheet, here, deadline=_DEADLINE)),
        *look_at_gateways,
    ]
    carry_out(sheet, groups, deadline=DEADLINE + _DEADLINE, width=len(groups))
    return Report(findings=sheet.findings, inventory=sheet.inventory)


def asked(parts: Parts) -> list[Gateway]:
    """Return the gateways that look at themselves: those that live and act for themselves.

    Who acts for another one looks at that one's things among its own.
    """
    with parts.db.read() as session:
        rows = session.scalars(select(Gateway).where(Gateway.held_by_id.is_(None)).order_by(Gateway.number))
        return [row for row in rows.all() if gateways.lives(parts.db, session, row)]


def _ask(parts: Parts, row: Gateway, verb: str, sheet: Sheet) -> None:
    try:
        seen = at_gateway(parts, row.id, verb, row.id)
    except BmiError as error:
        sheet.unreadable(Family.GATEWAY, f"gateway {row.name}", error)
        return
    for found in seen["findings"]:
        sheet.add(Finding.model_validate(found))
    for name, number in seen["inventory"].items():
        sheet.count(name, number)
