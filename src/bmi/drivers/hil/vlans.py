"""Which of HIL's networks is which VLAN."""

import re
from collections.abc import Mapping, Sequence
from contextlib import suppress

from bmi.drivers.hil.answers import NetworkAnswer
from bmi.drivers.hil.client import Hil, HilSaysNo
from bmi.drivers.hil.moves import NATIVE, NULL, tagged
from bmi.drivers.switch import PortVlans
from bmi.errors import SwitchRefused

_TAGGED = re.compile(r"vlan/([0-9]{1,4})")

STRANGE = 0
"""Stands for the VLAN of a network of which nobody knows one."""


class Vlans:
    """The networks of some projects.

    HIL tells a network's VLAN by the channel of its tagged frames, `vlan/ID`. What was seen once is only a hint
    where to look: networks come and go.

    Args:
        hil: The HIL.
        projects: Whose networks count.
        named: Networks by VLAN, as the settings say; they win.
    """

    def __init__(self, hil: Hil, projects: Sequence[str], named: Mapping[int, str]) -> None:
        self._hil = hil
        self._projects = projects
        self._named = named
        self._hints: dict[int, str] = {}
        self._some: str | None = None

    def channels(self, vlans: PortVlans) -> dict[str, str]:
        """Return the networks that make a port carry these VLANs, by the channel of each.

        Raises:
            SwitchRefused: HIL has no network for a VLAN, or does not let it be attached that way.
        """
        wanted: dict[str, str] = {}
        if vlans.native is not None:
            network = self._network(vlans.native)
            wanted[_native(network)] = network.name
        for vlan in sorted(vlans.tagged):
            network = self._network(vlan)
            if tagged(vlan) not in network.channels:
                raise SwitchRefused(
                    f"network {network.name} of HIL cannot be attached tagged with VLAN {vlan}, "
                    f"only by {', '.join(network.channels) or 'nothing'}",
                    next_step="attach it native, or let HIL have a vlan_pool with that VLAN",
                )
            wanted[tagged(vlan)] = network.name
        return wanted

    def carried(self, networks: Mapping[str, str], known: dict[str, int]) -> PortVlans:
        """Return the VLANs of a port by the networks that its card is on.

        Args:
            networks: The networks, by channel.
            known: VLANs by network, looked up by this caller already; more are added.
        """
        native: int | None = None
        ids: set[int] = set()
        for channel, network in networks.items():
            if found := _TAGGED.fullmatch(channel):
                ids.add(int(found[1]))
                continue
            if network not in known:
                known[network] = self._vlan(network)
            native = known[network]
        return PortVlans(native, frozenset(ids))

    def some_network(self) -> str | None:
        """Return the name of any network, which may be gone meanwhile (see `forget`); None if there is none."""
        if self._some is None:
            names = (name for project in self._projects for name in self._hil.networks_of(project))
            self._some = next(names, None)
        return self._some

    def forget(self, name: str) -> bool:
        """Do not name a network again that was named as any; says whether it was."""
        was, self._some = self._some == name, None
        return was

    def _vlan(self, name: str) -> int:
        for vlan, named in self._named.items():
            if named == name:
                return vlan
        try:
            found = _vlan_of(self._hil.network(name))
        except HilSaysNo as error:
            if error.wrong_user:
                raise
            return STRANGE  # taken away from it in this moment, or nobody's business
        if found is None:
            return STRANGE
        self._hints[found] = name
        return found

    def _network(self, vlan: int) -> NetworkAnswer:
        if vlan in self._named:
            return self._hil.network(self._named[vlan])
        if hint := self._hints.get(vlan):
            with suppress(HilSaysNo):
                if _vlan_of(found := self._hil.network(hint)) == vlan:
                    return found
            self._hints.pop(vlan, None)
        return self._search(vlan)

    def _search(self, vlan: int) -> NetworkAnswer:
        names = [name for project in self._projects for name in self._hil.networks_of(project)]
        with suppress(HilSaysNo):  # HIL 0.2 has no such list
            names += self._hil.public_networks()
        for name in dict.fromkeys(names):
            try:
                network = self._hil.network(name)
            except HilSaysNo as error:
                if error.wrong_user:
                    raise
                continue  # it is gone, or an admin's list has one that is not ours
            found = _vlan_of(network)
            if found is not None:
                self._hints[found] = name
            if found == vlan:
                return network
        raise SwitchRefused(
            f"none of HIL's networks that {', '.join(self._projects)} may use is VLAN {vlan}",
            next_step=f"make one (hil network create NAME admin --net-id {vlan}) and let the project use it "
            "(hil network grant-access), choose another VLAN for BMI's network, or name it in the switch's option "
            "'networks'",
        )


def _vlan_of(network: NetworkAnswer) -> int | None:
    found = [int(match[1]) for match in map(_TAGGED.fullmatch, network.channels) if match]
    return found[0] if len(found) == 1 else None


def _native(network: NetworkAnswer) -> str:
    for channel in (NATIVE, NULL):
        if channel in network.channels:
            return channel
    raise SwitchRefused(
        f"network {network.name} of HIL cannot be attached native, only by "
        f"{', '.join(network.channels) or 'nothing'}",
        next_step="use a network that HIL's allocator gives a native channel",
    )
