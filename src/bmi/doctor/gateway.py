"""The doctor's part on a gateway: what a gateway is asked to look at, and to mend, on its own host."""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from uuid import UUID

from bmi.api.doctor import Family
from bmi.boot import service as boot
from bmi.doctor import environment, exports, networks
from bmi.doctor.foreign_dhcp import LISTEN
from bmi.doctor.sheet import Check, Sheet, carry_out
from bmi.gateways.orders import verb
from bmi.gateways.presence import converge_gateway, logged
from bmi.parts import Parts

log = logging.getLogger(__name__)

EXAMINE, PROBE, REPAIR = "examine", "probe", "repair"
"""Verbs that gateways understand."""

_DEADLINE = 20.0  # seconds; less than the asker waits
_THREADS = 16  # daemons that are asked side by side


@verb(EXAMINE)
def examine(parts: Parts, _: UUID) -> dict[str, Any]:
    """Compare this gateway with the database, count what it has, and change nothing."""
    sheet = Sheet()
    carry_out(
        sheet,
        [
            *environment.gateway_checks(parts),
            Check(Family.LEG, "networks", partial(_all, networks.checks, parts)),
            Check(Family.TARGET, "exports", partial(_all, exports.checks, parts)),
        ],
        deadline=_DEADLINE,
    )
    return _answer(sheet)


@verb(PROBE)
def probe(parts: Parts, _: UUID) -> dict[str, Any]:
    """Ask every network of this gateway whether a foreign DHCP server answers."""
    sheet = Sheet()
    checks = networks.probes(parts)
    carry_out(sheet, checks, deadline=2 * LISTEN, width=len(checks))
    return _answer(sheet)


@verb(REPAIR)
def repair(parts: Parts, _: UUID) -> dict[str, Any]:
    """Make everything on this gateway equal to the database, and say whether all of it is."""
    here = parts.gateway
    with ThreadPoolExecutor(_THREADS) as pool:  # one that hangs takes its time to be sure of
        ended = [
            pool.submit(logged, f"export server {id}", here.target.end_if_hung, id)
            for id in here.target.portals()
        ]
        ended += [
            pool.submit(logged, f"dnsmasq of network {leg.network}", here.dnsmasq.end_if_hung, leg)
            for leg in here.legs.legs()
            if leg.complete
        ]
        whole = all(each.result() for each in ended)
    for server, session in exports.foreign_sessions(parts):
        log.warning("export %s is made anew: %s is logged in", session.iqn, session.initiator)
        with parts.lock(server):
            here.target.remove(server, session.iqn)
            whole &= logged(f"export {server}", boot.apply_export, parts, server)
    return {"whole": converge_gateway(parts) and whole}


def _all(checks: Callable[[Parts], list[Check]], parts: Parts, sheet: Sheet) -> None:
    carry_out(sheet, checks(parts), deadline=_DEADLINE - 1)


def _answer(sheet: Sheet) -> dict[str, Any]:
    return {
        "findings": [found.model_dump(mode="json") for found in sheet.findings],
        "inventory": sheet.inventory.model_dump(),
    }
