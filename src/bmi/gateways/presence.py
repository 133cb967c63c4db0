"""Makes what this gateway has equal to the database; the doctor (`bmi.doctor`) says where it is not.

Legs, tgtd, dnsmasq and boot scripts are caches of the database. What is missing is made again; what nobody knows
is removed, for it carries this gateway's mark. The same functions are what workers order.
"""

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec
from uuid import UUID

from sqlalchemy import select

from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.errors import BmiError
from bmi.gateways import service as gateways
from bmi.gateways.orders import verb
from bmi.networks.models import Network
from bmi.parts import Parts

log = logging.getLogger(__name__)

P = ParamSpec("P")

_THREADS = 16  # networks, then exports, that are looked at side by side


def converge_gateway(parts: Parts) -> bool:
    """Make everything on this gateway equal to the database, and say whether all of it is.

    What fails is logged and does not keep the rest from being done; it is tried again next time.
    """
    here = parts.gateway
    with parts.db.read() as session:
        acting = gateways.acting(session, here)
        networks = list(session.scalars(select(Network.id))) if here.id in acting else []
        exported = set(session.scalars(select(Boot.id).where(Boot.exported, Boot.gateway_id.in_(acting))))

    def network(id: UUID) -> bool:
        return logged(f"network {id}", boot.apply_network, parts, id)

    def export(id: UUID) -> bool:
        return logged(f"export {id}", boot.apply_export, parts, id)

    # Side by side: with Ceph away, each of them takes as long as its time limits.
    with ThreadPoolExecutor(_THREADS) as pool:
        done = list(pool.map(network, networks))
        # What is served and nobody needs here is ended by the same function.
        done += pool.map(export, exported | set(here.target.portals()))
    for orphan in sorted(_networks(parts) - set(networks), key=str):
        if here.id not in acting or not _known(parts, orphan):
            log.warning("removing what is left of network %s", orphan)
            done.append(logged(f"orphan of network {orphan}", boot.take_down, parts, orphan))
    return all(done)


def logged(thing: str, do: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> bool:
    """Do something whose failure must not keep other things from being done; say whether it worked.

    Args:
        thing: What it is about, for the log.
        do: What to do, and what with.
        args: See there.
        kwargs: See there.
    """
    try:
        do(*args, **kwargs)
    except BmiError as error:
        log.error("%s: %s", thing, error)
    except Exception:
        log.exception("%s", thing)
    else:
        return True
    return False


# --- what workers order ------------------------------------------------------------------------------------


@verb("network")
def bring_up(parts: Parts, network: UUID) -> dict[str, Any]:
    """Bring this gateway onto a network."""
    leg = boot.leg_of(parts, network)
    boot.apply_dhcp(parts, network)
    return {"leg": f"{leg.interface} in {leg.namespace}, {leg.address}"}


@verb("take down")
def take_down(parts: Parts, network: UUID) -> dict[str, Any]:
    """Take this gateway off a network."""
    boot.take_down(parts, network)
    return {}


@verb("export")
def export(parts: Parts, id: UUID) -> dict[str, Any]:
    """Serve a boot's disk, or end that."""
    removal = boot.apply_export(parts, id)
    return {"left": list(removal.initiators), "forced": removal.forced}


@verb("dhcp")
def dhcp(parts: Parts, network: UUID) -> dict[str, Any]:
    """Answer the nodes of a network, and no others."""
    boot.apply_dhcp(parts, network)
    return {}


def _networks(parts: Parts) -> set[UUID]:
    """Return the networks on which this gateway has anything."""
    here = parts.gateway
    return {leg.network for leg in here.legs.legs()} | {*here.dnsmasq.running(), *here.node_http.serving()}


def _known(parts: Parts, network: UUID) -> bool:
    with parts.db.read() as session:
        return session.get(Network, network) is not None
