"""Switch driver `memory`: a switch that exists in a file only, for tests and for trying BMI out."""

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, Field

from bmi.drivers import Options, Outcome, Site, parse_options
from bmi.drivers.statefile import StateFile
from bmi.drivers.switch import ISOLATED, PortState, PortVlans, unknown_port
from bmi.errors import SwitchError


class MemorySwitchOptions(Options):
    """Options of the driver `memory`."""

    name: str = Field("memory", pattern=r"^[A-Za-z0-9_-]+$")
    """Switches of different names are different ones."""
    ports: tuple[str, ...] = tuple(f"port{number}" for number in range(1, 49))


class _Switch(BaseModel):
    ports: dict[str, PortVlans] = {}
    """Ports that were configured; the others are isolated."""
    cards: dict[str, str | None] = {}
    """Cards that were said to be behind ports."""


class MemorySwitch:
    """A switch without packets."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(MemorySwitchOptions, options, driver="memory")
        path = site.state_dir / "switch-memory" / f"{self._options.name}.json"
        self._file = StateFile(path, _Switch, SwitchError)

    def configure(self, port: str, vlans: PortVlans) -> Outcome:
        """Make a port carry exactly these VLANs, see `Switch`."""
        vlans.require_valid()
        self._require(port)
        with self._file.edit() as switch:
            before = switch.ports.get(port, ISOLATED)
            switch.ports[port] = vlans
        return Outcome.ALREADY if before == vlans else Outcome.DONE

    def port(self, port: str) -> PortState:
        """Read a port, see `Switch`."""
        self._require(port)
        return _state(port, self._file.read())

    def ports(self) -> Iterable[PortState]:
        """Read every port, see `Switch`."""
        switch = self._file.read()
        return [_state(port, switch) for port in self._options.ports]

    def heard_at(self, mac: str) -> list[str] | None:
        """Name the ports behind which a card was heard, see `Switch`; what `plug` said."""
        cards = self._file.read().cards
        return [port for port, card in cards.items() if card == mac.lower()] if cards else None

    def plug(self, port: str, mac: str | None) -> None:
        """Say which card a port's cable ends at; a port whose cable ends nowhere has no link."""
        self._require(port)
        with self._file.edit() as switch:
            switch.cards[port] = mac.lower() if mac else None

    def close(self) -> None:
        """Do nothing: no connection is held."""

    def _require(self, port: str) -> None:
        if port not in self._options.ports:
            raise unknown_port(port, f"switch {self._options.name}", self._options.ports)


def _state(port: str, switch: _Switch) -> PortState:
    link = switch.cards[port] is not None if port in switch.cards else None
    return PortState(port, switch.ports.get(port, ISOLATED), link=link)
