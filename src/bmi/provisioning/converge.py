"""Keeps reality equal to the database: compares, reports, repairs.

tgtd, dnsmasq, the legs and the switches are caches of the database. What is missing is made again; what
nobody knows is removed, where a mark says that this installation made it. Volumes are never removed here:
whoever made one ends or undoes what he began, and a volume without a record is reported for a person to look
at.
"""

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.doctor import Finding, Inventory, Report
from bmi.boot import service as boot
from bmi.boot.models import Boot
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.switch import ISOLATED
from bmi.errors import BmiError
from bmi.images.models import Disk, Image
from bmi.networks.models import Network
from bmi.networks.service import apply_port, switch_of, vlans_of
from bmi.nodes.models import Nic
from bmi.parts import Parts

log = logging.getLogger(__name__)


class Convergence:
    """Compares and repairs at the start, at an interval, and when a daemon has died."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="converge", daemon=True)
        parts.target.on_exit(lambda network: self._mend("tgtd", network))
        parts.dnsmasq.on_exit(lambda network: self._mend("dnsmasq", network))

    def start(self) -> None:
        """Repair once, then go on at an interval."""
        converge(self._parts)
        self._thread.start()

    def close(self) -> None:
        """Stop comparing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _repeat(self) -> None:
        while not self._stop.wait(self._parts.settings.convergence_interval):
            converge(self._parts)

    def _mend(self, daemon: str, network: UUID) -> None:
        if self._stop.is_set():
            return
        log.warning("%s of network %s ended unexpectedly, starting it again", daemon, network)
        with _logged(f"network {network}"):
            boot.apply_network(self._parts, network)


def converge(parts: Parts) -> None:
    """Make reality equal to the database; what fails is logged and tried again next time."""
    with parts.db.read() as session:
        networks = list(session.scalars(select(Network.id)))
        nics = list(session.scalars(select(Nic.id)))
    for network in networks:
        with _logged(f"network {network}"):
            boot.apply_network(parts, network)
    for network in sorted(_presences(parts) - set(networks), key=str):
        with _logged(f"orphan of network {network}"):
            if not _known(parts, network):
                log.warning("removing what is left of network %s", network)
                boot.take_down(parts, network)
    for nic in nics:
        with _logged(f"card {nic}"):
            apply_port(parts, nic)


def examine(parts: Parts) -> Report:
    """Compare reality with the database, and change nothing."""
    findings = [
        *_collect("leg", lambda: _examine_networks(parts)),
        *_collect("target", lambda: _examine_exports(parts)),
        *_collect("storage", lambda: _examine_volumes(parts)),
        *_collect("switch", lambda: _examine_ports(parts)),
    ]
    return Report(findings=findings, inventory=inventory(parts))


def inventory(parts: Parts) -> Inventory:
    """Count what really exists, at the parts themselves."""
    kinds = [info.volume.kind for info in parts.storage.volumes()]
    portals = list(parts.target.portals())
    servers = parts.dnsmasq.running()
    with parts.db.read() as session:
        nics = list(session.scalars(select(Nic)))
    return Inventory(
        images=kinds.count(Kind.IMAGE),
        disks=kinds.count(Kind.DISK),
        seeds=kinds.count(Kind.SEED),
        exports=sum(len(list(parts.target.exports(portal))) for portal in portals),
        sessions=sum(len(list(parts.target.sessions(portal))) for portal in portals),
        target_servers=len(portals),
        dhcp_servers=len(servers),
        leases=sum(len(parts.dnsmasq.leases(network)) for network in servers),
        legs=len(list(parts.legs.legs())),
        ports_in_use=sum(switch_of(parts, nic.switch).port(nic.port).vlans != ISOLATED for nic in nics),
    )


def _presences(parts: Parts) -> set[UUID]:
    """Return the networks on which this gateway has anything."""
    legs = {leg.network for leg in parts.legs.legs()}
    return legs | set(parts.target.portals()) | set(parts.dnsmasq.running())


def _known(parts: Parts, network: UUID) -> bool:
    with parts.db.read() as session:
        return session.get(Network, network) is not None


def _examine_networks(parts: Parts) -> Iterator[Finding]:
    real = _presences(parts)
    servers = set(parts.dnsmasq.running())
    with parts.db.read() as session:
        rows = list(session.scalars(select(Network)))
    for row in rows:
        if row.state != "ready":
            continue
        if row.id not in real:
            yield Finding(
                kind="missing",
                family="leg",
                thing=f"network {row.name}",
                message="the gateway has no leg on it",
            )
        elif row.id not in servers:
            yield Finding(
                kind="missing", family="boot", thing=f"network {row.name}", message="dnsmasq does not run"
            )
    for id in real - {row.id for row in rows}:
        yield Finding(
            kind="orphan", family="leg", thing=f"network {id}", message="no such network is in the database"
        )


def _examine_exports(parts: Parts) -> Iterator[Finding]:
    before = _exports(parts)
    real = {export.iqn for portal in parts.target.portals() for export in parts.target.exports(portal)}
    after = _exports(parts)
    # What came or went while this looked is neither missing nor an orphan.
    for iqn in sorted(before.keys() & after.keys() - real):
        yield Finding(
            kind="missing",
            family="target",
            thing=iqn,
            message=f"the disk of node {after[iqn]} is not exported",
        )
    for iqn in sorted(real - before.keys() - after.keys()):
        yield Finding(kind="orphan", family="target", thing=iqn, message="no boot record needs this export")


def _exports(parts: Parts) -> dict[str, str]:
    """Return the exports that should be there, with the names of their nodes."""
    with parts.db.read() as session:
        rows = session.scalars(select(Boot).where(Boot.exported)).all()
        return {boot.iqn(parts, row): row.node.name for row in rows}


def _examine_volumes(parts: Parts) -> Iterator[Finding]:
    with parts.db.read() as session:
        before, known_before = _volumes(session), _volumes(session, all=True)
    real = {info.volume for info in parts.storage.volumes()}
    with parts.db.read() as session:
        after, known_after = _volumes(session), _volumes(session, all=True)
    # What came or went while this looked is neither missing nor an orphan.
    for volume in sorted(before & after - real, key=str):
        yield Finding(kind="missing", family="storage", thing=str(volume), message="its content is gone")
    for volume in sorted(real - known_before - known_after, key=str):
        yield Finding(kind="orphan", family="storage", thing=str(volume), message="nothing refers to it")


def _volumes(session: Session, *, all: bool = False) -> set[Volume]:
    """Return the volumes that must exist; with `all` also those on their way in or out."""
    images = select(Image.id) if all else select(Image.id).where(Image.state == "ready")
    disks = select(Disk.id) if all else select(Disk.id).where(Disk.state == "ready")
    seeds = select(Boot.id) if all else select(Boot.id).where(Boot.seeded, Boot.exported)
    return {
        *(Volume(Kind.IMAGE, id) for id in session.scalars(images)),
        *(Volume(Kind.DISK, id) for id in session.scalars(disks)),
        *(Volume(Kind.SEED, id) for id in session.scalars(seeds)),
    }


def _examine_ports(parts: Parts) -> Iterator[Finding]:
    with parts.db.read() as session:
        wanted = [(nic, vlans_of(session, nic.id)) for nic in session.scalars(select(Nic))]
    for nic, vlans in wanted:
        found = switch_of(parts, nic.switch).port(nic.port).vlans
        with parts.db.read() as session:
            changing = vlans_of(session, nic.id) != vlans
        if found != vlans and not changing:
            yield Finding(
                kind="differs",
                family="switch",
                thing=f"port {nic.port} of switch {nic.switch} (node {nic.node.name})",
                message=f"carries VLAN {found}, should carry {vlans}",
            )


def _collect(family: str, findings: Callable[[], Iterator[Finding]]) -> list[Finding]:
    try:
        return list(findings())
    except BmiError as error:
        return [
            Finding.model_validate(
                {"kind": "differs", "family": family, "thing": family, "message": f"cannot be read: {error}"}
            )
        ]


@contextmanager
def _logged(thing: str) -> Iterator[None]:
    """Keep one thing's failure from the others; it is tried again at the next interval."""
    try:
        yield
    except BmiError as error:
        log.error("%s: %s", thing, error)
    except Exception:
        log.exception("%s", thing)
