"""Everything a running service works with, in one place."""

import threading
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from bmi.boot.dnsmasq import Dnsmasq
from bmi.boot.listen import NodeHttp
from bmi.boot.texts import OWN_TEXTS, Texts
from bmi.db import Db
from bmi.drivers import Site
from bmi.drivers.leg import Leg, Legs
from bmi.drivers.power import Power
from bmi.drivers.storage import Storage
from bmi.drivers.switch import Switch
from bmi.drivers.target import Target
from bmi.helper.client import HelpedDnsmasq
from bmi.rights import OWN, Rights
from bmi.settings import Settings
from bmi.signals import Signals
from bmi.vault import Vault


@dataclass
class GatewayParts:
    """What a process works with that is a gateway: the drivers and the daemons of this host."""

    id: UUID
    name: str
    number: int
    target: Target
    legs: Legs
    dnsmasq: Dnsmasq | HelpedDnsmasq
    node_http: NodeHttp
    known_legs: dict[UUID, Leg] = field(default_factory=dict)
    """Legs that this process brought up, by network."""
    leaving: set[UUID] = field(default_factory=set)
    """Gateways for which this one acts and is about to stop doing so."""
    rights: Rights = OWN
    """How this process does what takes root's."""
    lease: int | None = None
    """Seconds that addresses stay when this process dies; for ever where no other gateway could take over."""

    def close(self) -> None:
        """Let go of everything; what nodes use goes on."""
        self.node_http.close()
        self.dnsmasq.close()
        self.target.close()
        self.legs.close()


@dataclass
class Parts:
    """The database, the drivers and the daemons of this process."""

    settings: Settings
    site: Site
    db: Db
    vault: Vault
    signals: Signals
    storage: Storage
    switches: Mapping[str, Switch]
    powers: Mapping[str, Power]
    texts: Texts = OWN_TEXTS
    here: GatewayParts | None = None
    """None where this process is no gateway."""
    _locks: dict[object, threading.RLock] = field(
        default_factory=lambda: defaultdict(threading.RLock), repr=False
    )
    _locks_guard: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def gateway(self) -> GatewayParts:
        """The gateway that this process is; what needs one is called in no other process."""
        if self.here is None:
            raise AssertionError("this process is no gateway")
        return self.here

    def lock(self, thing: object) -> threading.RLock:
        """Return the lock of a thing.

        Whoever makes reality equal to the database holds it from reading to doing. Without it, one who read
        earlier could undo what another did later.
        """
        with self._locks_guard:
            return self._locks[thing]

    def close(self) -> None:
        """Let go of everything; what nodes use goes on."""
        self.signals.close()
        if self.here is not None:
            self.here.close()
        self.storage.close()
        for switch in self.switches.values():
            switch.close()
        for power in self.powers.values():
            power.close()
        self.db.close()
