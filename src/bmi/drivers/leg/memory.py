"""Leg driver `memory`: legs that exist in a file only, for tests and for trying BMI out."""

from collections.abc import Iterable, Mapping
from ipaddress import IPv4Interface
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from bmi.drivers import Options, Outcome, Site, parse_options
from bmi.drivers.leg import Leg, require_vlan
from bmi.drivers.statefile import StateFile
from bmi.errors import LegError


class MemoryLegOptions(Options):
    """Options of the driver `memory`: none."""


class _Legs(BaseModel):
    legs: dict[UUID, Leg] = {}


class MemoryLeg:
    """Legs without packets: their namespaces do not exist."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        parse_options(MemoryLegOptions, options, driver="memory")
        self._site = site
        self._file = StateFile(site.state_dir / "leg-memory.json", _Legs, LegError)

    def up(self, network: UUID, vlan: int, address: IPv4Interface) -> Leg:
        """Make the leg on a network, see `Legs`."""
        require_vlan(vlan)
        leg = Leg(network, vlan, address, f"bmi-{self._site.installation}-{network.hex}", "eth0")
        with self._file.edit() as known:
            known.legs[network] = leg
        return leg

    def down(self, network: UUID) -> Outcome:
        """Remove the leg on a network, see `Legs`."""
        with self._file.edit() as known:
            found = known.legs.pop(network, None)
        return Outcome.DONE if found else Outcome.ALREADY

    def legs(self) -> Iterable[Leg]:
        """List the legs, see `Legs`."""
        return list(self._file.read().legs.values())

    def close(self) -> None:
        """Do nothing: no connection is held."""
