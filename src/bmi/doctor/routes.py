"""HTTP of the doctor."""

from typing import Annotated

from fastapi import APIRouter, Query

from bmi.access.policy import Action, authorize
from bmi.access.rules import asks
from bmi.api import doctor as wire
from bmi.doctor.examine import examine
from bmi.doctor.repair import repair
from bmi.http import TheService, Who

router = APIRouter(tags=["doctor"])


@router.get("/doctor", dependencies=[asks(Action.DOCTOR)])
def show_report(
    service: TheService,
    who: Who,
    quick: Annotated[
        bool, Query(description="Do not ask the networks for foreign DHCP servers, which takes some seconds")
    ] = False,
) -> wire.Report:
    """Compare what really exists with what should, and count it."""
    authorize(who, Action.DOCTOR, None, thing="the system")
    return examine(service.parts, quick=quick)


@router.post("/doctor/repair", dependencies=[asks(Action.DOCTOR_REPAIR)])
def mend(service: TheService, who: Who, body: wire.Repair) -> wire.Repaired:
    """Mend what differs from the database, and say what is mended and what is left."""
    authorize(who, Action.DOCTOR_REPAIR, None, thing="the system")
    return repair(service.parts, who, remove_orphans=body.remove_orphans)
