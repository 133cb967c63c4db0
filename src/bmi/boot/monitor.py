"""Watches what nodes do while they boot, and writes it on their timelines: DHCP, TFTP, iSCSI log-ins."""

import logging
import threading
from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.api.nodes import Milestone
from bmi.boot.dhcp_log import BootEvent
from bmi.boot.models import Boot
from bmi.boot.service import boots_on, iqn, reached
from bmi.errors import BmiError
from bmi.events import record
from bmi.networks.models import Attachment, Network
from bmi.parts import Parts

log = logging.getLogger(__name__)

_INTERVAL = 0.25  # seconds between two looks; a boot takes many of them


class Monitor:
    """A thread that reads dnsmasq's log and the targets' sessions of every network with a boot on it."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="monitor", daemon=True)
        self._sessions: dict[UUID, set[tuple[str, int]]] = {}
        """Sessions seen before, by network: initiator and the server's number for it."""

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()
        self._thread.join()

    def look(self) -> None:
        """Look once at every network with a boot on it."""
        with self._parts.db.read() as session:
            networks = session.scalars(
                select(Network.id).join(Attachment).join(Boot).where(Boot.served).distinct()
            ).all()
        for network in networks:
            try:
                self._look_at(network)
            except BmiError as error:
                log.warning("network %s cannot be watched: %s", network, error)

    def _repeat(self) -> None:
        while not self._stop.wait(_INTERVAL):
            try:
                self.look()
            except Exception:
                log.exception("watching boots")

    def _look_at(self, network: UUID) -> None:
        sessions = {
            (session.initiator, session.address, session.id)
            for session in self._parts.target.sessions(network)
        }
        # Last of the two: what this returned counts as dealt with when it is called again.
        events = self._parts.dnsmasq.events(network)
        seen = self._sessions.get(network, set())
        new = [entry for entry in sessions if (entry[0], entry[2]) not in seen]
        self._sessions[network] = {(initiator, id) for initiator, _, id in sessions}
        if not events and not new:
            return
        with self._parts.db.write() as session:
            boots = boots_on(session, network)
            for event in events:
                _note(session, boots, event)
            for initiator, address, _ in new:
                self._note_login(session, boots, initiator, address)

    def _note_login(self, session: Session, boots: Sequence[Boot], initiator: str, address: str) -> None:
        for boot in boots:
            if initiator.endswith(f":node-{boot.node_id}"):
                words = f"logged in to {iqn(self._parts, boot)} from {address}"
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
