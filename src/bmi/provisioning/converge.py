"""Keeps reality equal to the database.

Gateways look after their own daemons (`bmi.gateways.presence`), workers after switch ports and after what came late
(`bmi.provisioning.late`); and they have images removed whose time in the trash is over. No other volume is removed
here: whoever made one ends or undoes what he began, and of a volume that nothing accounts for the doctor
(`bmi.doctor`) tells a person.
"""

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence

from sqlalchemy import select

from bmi.access.sessions import sweep_sessions
from bmi.discovery.service import sweep as sweep_discovered
from bmi.drivers.switch import PortVlans
from bmi.gateways.orders import sweep
from bmi.gateways.presence import converge_gateway, logged
from bmi.networks.service import apply_port, switch_of, vlans_of
from bmi.nodes.leases import watch
from bmi.nodes.models import Nic
from bmi.parts import Parts
from bmi.provisioning.cleaning import clean_what_waits
from bmi.provisioning.late import end_late
from bmi.provisioning.life import empty_trash
from bmi.provisioning.spool import sweep as sweep_spool

log = logging.getLogger(__name__)


FIRST_PAUSE = (
    2.0  # seconds after which a gateway is tried again that is not as it should be, say while Ceph is away
)
"""Doubled each time, up to the interval."""


class Convergence:
    """Compares and repairs at the start, and at an interval; sooner while this gateway is not as it should be."""

    def __init__(self, parts: Parts, *, ports: bool) -> None:
        """Say what to look after.

        Args:
            parts: The parts of this process; its own daemons, if it is a gateway.
            ports: Whether to look after switch ports and forgotten orders too.
        """
        self._parts = parts
        self._ports = ports
        self._pause = FIRST_PAUSE
        """Seconds until the next try, if the last one was no success."""
        self._whole = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="converge", daemon=True)

    def start(self) -> None:
        """Repair once, then go on at an interval."""
        self._converge()
        self._thread.start()

    def close(self) -> None:
        """Stop comparing."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _repeat(self) -> None:
        interval = self._parts.settings.convergence_interval
        while not self._stop.wait(interval if self._whole else min(self._pause, interval)):
            self._pause = FIRST_PAUSE if self._whole else 2 * self._pause
            self._converge()

    def _converge(self) -> None:
        if self._parts.here is not None:
            self._whole = False
            logged("this gateway", self._converge_gateway)
        if self._ports:
            logged("switch ports", converge_ports, self._parts)
            logged("leases", watch, self._parts.db, self._parts.leases)
            logged("orders", sweep, self._parts)
            logged("what came late", end_late, self._parts)
            logged("nodes to be cleaned", clean_what_waits, self._parts)
            logged("the trash", empty_trash, self._parts)
            logged("the spool", sweep_spool, self._parts)
            logged("machines that were discovered", sweep_discovered, self._parts)
            logged("sessions", sweep_sessions, self._parts.db, self._parts.settings.access)

    def _converge_gateway(self) -> None:
        self._whole = converge_gateway(self._parts)


def converge(parts: Parts) -> None:
    """Make everything that this process looks after equal to the database."""
    if parts.here is not None:
        converge_gateway(parts)
    converge_ports(parts)
    watch(parts.db, parts.leases)
    end_late(parts)
    clean_what_waits(parts)
    empty_trash(parts)
    sweep_spool(parts)


def converge_ports(parts: Parts) -> None:
    """Make all switch ports equal to the database; what fails is logged and tried again next time.

    Each switch is read once, as a real one takes a second for that; ports are set that differ.
    """
    wanted: defaultdict[str, list[tuple[Nic, PortVlans]]] = defaultdict(list)
    with parts.db.read() as session:
        for nic in session.scalars(select(Nic)):
            wanted[nic.switch].append((nic, vlans_of(session, nic.id)))
    for switch, cards in wanted.items():
        logged(f"switch {switch}", _converge_switch, parts, switch, cards)


def _converge_switch(parts: Parts, name: str, cards: Sequence[tuple[Nic, PortVlans]]) -> None:
    carried = {state.port: state.vlans for state in switch_of(parts, name).ports()}
    for nic, vlans in cards:
        if carried.get(nic.port) != vlans:
            logged(f"card {nic.id}", apply_port, parts, nic.id)
