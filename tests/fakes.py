"""Stand-ins for what cannot be had without privileges: the daemons of the boot room."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

from pydantic import BaseModel

from bmi.boot.dhcp_log import BootEvent
from bmi.boot.dnsmasq import Addressing, BootHost, Lease, NodeName
from bmi.drivers import Outcome
from bmi.drivers.leg import Leg
from bmi.drivers.statefile import StateFile
from bmi.errors import BootServiceError

_PLAIN = Addressing()


class _Told(BaseModel):
    hosts: dict[UUID, list[BootHost]] = {}


class FakeDnsmasq:
    """Remembers which hosts it was told to answer."""

    def __init__(self, file: Path | None = None) -> None:
        """Say where it remembers: in a file, as a daemon does that outlives the service, or nowhere."""
        self._file = StateFile(file, _Told, BootServiceError) if file else None
        self._told = _Told()
        self.seen: defaultdict[UUID, list[BootEvent]] = defaultdict(list)
        """What the next call of `events` returns."""
        self.leased: defaultdict[UUID, list[Lease]] = defaultdict(list)
        """What `leases` returns."""
        self.addressing: dict[UUID, Addressing] = {}
        """What each network's server was told last about the network, by this process."""
        self.names: dict[UUID, list[NodeName]] = {}
        """The names that it was told last."""
        self._calls: list[Callable[[UUID], None]] = []

    @property
    def hosts(self) -> dict[UUID, list[BootHost]]:
        """The hosts that each network's server answers."""
        return (self._file.read() if self._file else self._told).hosts

    def serve(
        self,
        leg: Leg,
        hosts: Sequence[BootHost],
        *,
        addressing: Addressing = _PLAIN,
        names: Sequence[NodeName] = (),
    ) -> Outcome:
        self.addressing[leg.network], self.names[leg.network] = addressing, list(names)
        return self._set(leg.network, list(hosts))

    def answers(
        self,
        leg: Leg,
        hosts: Sequence[BootHost],
        *,
        addressing: Addressing = _PLAIN,
        names: Sequence[NodeName] = (),
    ) -> bool:
        told = self.addressing.get(leg.network, addressing), self.names.get(leg.network, list(names))
        return self.hosts.get(leg.network) == list(hosts) and told == (addressing, list(names))

    def stop(self, network: UUID) -> Outcome:
        return self._set(network, None)

    def running(self) -> list[UUID]:
        return list(self.hosts)

    def leases(self, network: UUID) -> list[Lease]:
        return self.leased[network]

    def events(self, network: UUID) -> list[BootEvent]:
        return self.seen.pop(network, [])

    def on_exit(self, call: Callable[[UUID], None]) -> None:
        self._calls.append(call)

    def end_if_hung(self, leg: Leg) -> bool:
        return False

    def close(self) -> None:
        self._calls.clear()

    def kill(self, network: UUID) -> None:
        """End a network's server as a crash would, and tell those who asked."""
        self._set(network, None)
        for call in self._calls:
            call(network)

    def _set(self, network: UUID, hosts: list[BootHost] | None) -> Outcome:
        if self._file is None:
            return _put(self._told, network, hosts)
        with self._file.edit() as told:
            return _put(told, network, hosts)


class FakeNodeHttp:
    """Remembers on which networks it was told to listen. The real one ends with the service too."""

    def __init__(self) -> None:
        self.networks: set[UUID] = set()

    def serve(self, network: UUID, namespace: str | None, address: str, port: int) -> Outcome:
        self.networks.add(network)
        return Outcome.DONE

    def stop(self, network: UUID) -> Outcome:
        self.networks.discard(network)
        return Outcome.DONE

    def serving(self) -> list[UUID]:
        return list(self.networks)

    def close(self) -> None:
        pass


def _put(told: _Told, network: UUID, hosts: list[BootHost] | None) -> Outcome:
    before = told.hosts.pop(network, None)
    if hosts is None:
        return Outcome.ALREADY if before is None else Outcome.DONE
    told.hosts[network] = hosts
    return Outcome.DONE
