"""Watches what this gateway's nodes do while they boot, and writes it on their timelines: DHCP, TFTP, log-ins."""

import logging
import threading
from collections import defaultdict
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.nodes import Milestone
from bmi.boot.dhcp_log import BootEvent
from bmi.boot.models import Boot
from bmi.boot.service import boots_here, iqn, reached
from bmi.errors import BmiError, TargetError
from bmi.events import record
from bmi.gateways import service as gateways
from bmi.parts import Parts

log = logging.getLogger(__name__)

_INTERVAL = 0.25  # seconds between two looks; a boot takes many of them
_CALM = 20  # looks at a network for one at the sessions of a node that is up


class Monitor:
    """A thread that reads dnsmasq's log and the targets' sessions of every network with a boot on it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="monitor", daemon=True)
        self._looks = 0
        self._sessions: dict[UUID, set[int]] = {}
        """Sessions seen before, by boot record: the server's numbers for them."""

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look once at every network with a boot on it."""
        calm = self._looks % _CALM != 0
        self._looks += 1
        with self._parts.db.read() as session:
            acting = gateways.acting(session, self._parts.gateway)
            boots = session.scalars(select(Boot).where(Boot.served, Boot.gateway_id.in_(acting))).all()
        networks: defaultdict[UUID, list[Boot]] = defaultdict(list)
        for boot in boots:
            networks[boot.attachment.network_id].append(boot)
        for network, there in networks.items():
            try:
                self._look_at(
                    network, [boot for boot in there if not calm or boot.milestone is not Milestone.UP]
                )
            except BmiError as error:
                log.warning("network %s cannot be watched: %s", network, error)

    def _repeat(self) -> None:
        while not self._stop.wait(_INTERVAL):
            try:
                self.look()
            except Exception:
                log.exception("watching boots")

    def _look_at(self, network: UUID, boots: Sequence[Boot]) -> None:
        """Look at a network's DHCP and at the sessions of some of its boots."""
        target = self._parts.gateway.target
        logins = []
        for boot in boots:
            try:
                sessions = {found.id: found.address for found in target.sessions(boot.id)}
            except TargetError as error:  # it hangs; the others' nodes have nothing to do with it
                log.warning("the sessions of %s cannot be seen: %s", boot.id, error.message)
                continue
            seen = self._sessions.get(boot.id, set())
            logins += [(boot.id, address) for id, address in sessions.items() if id not in seen]
            self._sessions[boot.id] = set(sessions)
        # Last of the two: what this returned counts as dealt with when it is called again.
        events = self._parts.gateway.dnsmasq.events(network)
        if not events and not logins:
            return
        with self._parts.db.write() as session:
            # The other gateways' nodes are theirs to tell of, and refused here.
            known = boots_here(self._parts, session, network)
            for event in events:
                _note(session, known, event)
            for id, address in logins:
                self._note_login(session, id, address)

    def _note_login(self, session: Session, id: UUID, address: str) -> None:
        boot = session.get(Boot, id)
        if boot is not None:
            words = f"logged in to {iqn(self._parts, boot)}" + (f" from {address}" if address else "")
            reached(session, boot, Milestone.LOGIN, words, kind="iscsi.login")


def _note(session: Session, boots: Sequence[Boot], event: BootEvent) -> None:
    boot = next(
        (
            boot
            for boot in boots
            if event.mac == boot.attachment.nic.mac or (event.address and event.address == boot.attachment.ip)
        ),
        None,
    )
    if boot is None:
        return
    if event.kind == "dhcp-ack":
        reached(session, boot, Milestone.DHCP, f"got the address {event.address}", kind="dhcp.ack")
    else:
        record(
            session,
            event.kind.replace("-", ".", 1),
            event.detail,
            node=boot.node_id,
            project=boot.disk.project_id,
        )
