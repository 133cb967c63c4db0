"""Leg driver `memory`: legs that exist in a file only, for tests and for trying BMI out."""

from collections.abc import Collection, Iterable, Mapping
from ipaddress import IPv4Interface
from typing import Any
from uuid import UUID

from pydantic import BaseModel

from bmi.drivers import Options, Outcome, Site, parse_options
from bmi.drivers.leg import Leg, require_vlan
from bmi.drivers.statefile import StateFile
from bmi.errors import AddressTaken, LegError


class MemoryLegOptions(Options):
    """Options of the driver `memory`: none."""


class _Legs(BaseModel):
    legs: dict[UUID, Leg] = {}
    lease: int | None = None
    mtu: int = 1500
    """Bytes that a frame may carry on every leg."""
    answered: set[IPv4Interface] = set()
    """Addresses that other hosts answer for, wherever they are."""


class MemoryLeg:
    """Legs without packets: their namespaces do not exist."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        parse_options(MemoryLegOptions, options, driver="memory")
        self._site = site
        self._file = StateFile(site.state_dir / "leg-memory.json", _Legs, LegError)

    def up(
        self,
        network: UUID,
        vlan: int,
        address: IPv4Interface,
        *,
        also: Collection[IPv4Interface] = (),
        lease: int | None = None,
    ) -> Leg:
        """Make the leg on a network, see `Legs`."""
        require_vlan(vlan)
        namespace = f"bmi-{self._site.installation}-{network.hex}"
        with self._file.edit() as known:
            had = known.legs[network].addresses if network in known.legs else frozenset()
            taken = known.answered & (frozenset(also) - had)
            leg = Leg(network, vlan, address, namespace, "eth0", frozenset(also) - taken)
            known.legs[network] = leg
        if taken:
            raise AddressTaken(f"a host answers for {min(taken)}", next_step="switch it off")
        return leg

    def renew(self, lease: int | None) -> None:
        """Remember for how long the addresses stay, see `Legs`."""
        with self._file.edit() as known:
            known.lease = lease

    def down(self, network: UUID) -> Outcome:
        """Remove the leg on a network, see `Legs`."""
        with self._file.edit() as known:
            found = known.legs.pop(network, None)
        return Outcome.DONE if found else Outcome.ALREADY

    def legs(self) -> Iterable[Leg]:
        """List the legs, see `Legs`."""
        return list(self._file.read().legs.values())

    def mtus(self, network: UUID) -> Mapping[str, int]:
        """Say how long frames may be, see `Legs`."""
        known = self._file.read()
        return {"eth0": known.mtu} if network in known.legs else {}

    def close(self) -> None:
        """Do nothing: no connection is held."""

    # --- more than the protocol, for tests ---------------------------------------------------------------

    def shrink(self, mtu: int) -> None:
        """Let frames on all legs carry so many bytes."""
        with self._file.edit() as known:
            known.mtu = mtu

    def answer_for(self, *addresses: IPv4Interface) -> None:
        """Let other hosts answer for these addresses, and for no others."""
        with self._file.edit() as known:
            known.answered = set(addresses)
