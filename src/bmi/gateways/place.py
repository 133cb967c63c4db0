"""Keeps this gateway's place: signs of life, leases of addresses, acting for gateways that died."""

import logging
import threading
import time
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.orm import Session

from bmi.boot.models import Boot
from bmi.errors import GatewayUnavailable
from bmi.events import record
from bmi.gateways import service as gateways
from bmi.gateways.models import Gateway
from bmi.gateways.presence import converge_gateway, logged
from bmi.networks.models import Network
from bmi.parts import Parts

log = logging.getLogger(__name__)

PLACES = "bmi_places"
"""Channel of signals: a gateway was given its place back."""

_HURRY = 60.0  # seconds for which what changed hands is tried again at every sign of life


class Place:
    """A thread that says that this gateway lives, and looks whether the others do."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._here = parts.gateway
        self._settled: set[UUID] | None = None
        """The gateways for whom everything was made here when places last changed hands; None if not yet."""
        self._kept = time.monotonic()
        """When the addresses were last made to stay."""
        self._changed = 0.0
        """When places last changed hands, by the monotonic clock."""
        self._stop = threading.Event()
        self._look = threading.Event()
        parts.signals.on(PLACES, lambda place: self._look.set())
        self._threads = [
            threading.Thread(target=self._repeat, name="place", daemon=True),
            threading.Thread(target=self._renew, name="leases", daemon=True),
        ]
        self._busy = threading.Lock()
        """Held while places change hands; that must not keep the next sign of life waiting."""

    def start(self) -> None:
        """Say once that this gateway lives, then go on at an interval where others could miss it."""
        self._beat(first=True)
        if self._parts.db.shared:
            for thread in self._threads:
                thread.start()

    def close(self) -> None:
        """Say no more. Where another gateway can take this place, its addresses stay for the lease only."""
        self._stop.set()
        self._look.set()
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        with self._busy:  # what changes hands is let finish
            pass

    def _renew(self) -> None:
        """Keep the addresses, whatever the database does: who cannot reach it must not lose what he serves."""
        while not self._stop.wait(gateways.BEAT):
            if self._here.lease is not None:
                logged("leases", self._keep, self._here.lease)

    def _keep(self, lease: int | None) -> None:
        self._here.legs.renew(lease)
        self._kept = time.monotonic()

    def _repeat(self) -> None:
        while not self._stop.is_set():
            self._look.wait(gateways.BEAT)
            self._look.clear()
            begun = time.monotonic()
            logged("signs of life", self._beat)
            if (taken := time.monotonic() - begun) > gateways.BEAT:
                log.warning("a sign of life took %.1f s", taken)

    def _beat(self, *, first: bool = False) -> None:
        db, here = self._parts.db, self._here
        self._require_addresses()
        with db.write(alone=False) as session:
            session.get_one(Gateway, here.id).seen_at = db.clock(session)
        with db.read() as session:
            empty = gateways.empty_places(db, session, here.id)
        if empty:
            with db.write() as session:  # of several who see this, one gets there first
                for row in gateways.fill_in(db, session, here.id):
                    log.warning("acting for gateway %s from now on", row.name)
                    _note(session, row, here.name)
        with db.read() as session:
            alone = not any(row.id != here.id for row in gateways.alive(db, session))
            acting = gateways.acting(session, here)
            back = gateways.returned(db, session, here.id)
        self._set_lease(None if alone else gateways.LEASE)
        if first:  # what is here is looked at by the first convergence
            self._settled = acting
        elif acting != self._settled or back:
            self._beside(back, acting)

    def _require_addresses(self) -> None:
        """Give no sign of life where the addresses have gone: whoever takes this place serves the nodes again.

        Raises:
            GatewayUnavailable: They could not be kept, as while the helper is away.
        """
        lease = self._here.lease
        if lease is not None and (away := time.monotonic() - self._kept) > lease:
            self._settled = None  # all of it is made again when the addresses can be
            raise GatewayUnavailable(
                f"this gateway could not keep its addresses for {away:.0f} s, and lets others take its place",
                next_step="see the errors of leases before this one; the helper may be away",
            )

    def _set_lease(self, lease: int | None) -> None:
        """Let addresses go with this process only while there is somebody to take them over."""
        if lease != self._here.lease:
            before, self._here.lease = self._here.lease, lease
            try:
                self._keep(lease)
            except BaseException:  # the addresses stay for as long as they did, and it is tried again
                self._here.lease = before
                raise

    def _beside(self, back: list[Gateway], acting: set[UUID]) -> None:
        """Make this gateway what it should be now, and give others their places back, on a thread of its own."""
        if not self._busy.acquire(blocking=False):
            return  # the next sign of life looks again
        if self._settled is not None:
            self._changed = time.monotonic()

        def work() -> None:
            try:
                for row in back:
                    logged(f"the place of gateway {row.name}", self._give_back, row)
                logged("places that changed hands", self._settle, acting - {row.id for row in back})
            finally:
                self._busy.release()

        threading.Thread(target=work, name="places", daemon=True).start()

    def _settle(self, acting: set[UUID]) -> None:
        self._settled = None
        done = converge_gateway(self._parts)
        # What does not work for so long is left to convergence, which comes less often.
        late = time.monotonic() - self._changed > _HURRY
        self._settled = acting if done or late else None

    def _give_back(self, row: Gateway) -> None:
        """End what this gateway has of another that is alive again, and then say so: never the other way round.

        Raises:
            GatewayUnavailable: Not everything could be ended.
        """
        self._here.leaving.add(row.id)
        try:
            converge_gateway(self._parts)
            if left := self._what_is_left_of(row):
                raise GatewayUnavailable(
                    f"{left} of gateway {row.name} are still here", next_step="see the errors before this one"
                )
            with self._parts.db.write() as session:
                gateways.give_back(session, row.id, self._here.id)
                self._parts.signals.send(session, PLACES, str(row.id))
                _note(session, row, row.name)
            log.warning("gateway %s acts for itself again", row.name)
        finally:
            self._here.leaving.discard(row.id)

    def _what_is_left_of(self, row: Gateway) -> str:
        with self._parts.db.read() as session:
            boots = set(session.scalars(select(Boot.id).where(Boot.gateway_id == row.id)))
            addresses = {network.address_of(row.number) for network in session.scalars(select(Network))}
        exports = boots & set(self._here.target.portals())
        held = [address for leg in self._here.legs.legs() for address in leg.also & addresses]
        return f"{len(exports)} exports and {len(held)} addresses" if exports or held else ""


def _note(session: Session, place: Gateway, holder: str) -> None:
    """Write on the timelines of a place's nodes who serves them now."""
    for row in session.scalars(select(Boot).where(Boot.gateway_id == place.id, Boot.exported)):
        words = f"disk and boot service come from gateway {holder} from now on"
        if holder != place.name:
            words += f", for gateway {place.name} does not answer"
        record(session, "gateway.changed", words, node=row.node_id, project=row.disk.project_id)
