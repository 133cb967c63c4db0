"""Switch driver `ovs`: a bridge of Open vSwitch."""

import threading
from collections.abc import Iterable, Mapping
from typing import Any

from bmi.drivers import Outcome, Site, parse_options
from bmi.drivers.openvswitch import OvsOptions
from bmi.drivers.openvswitch.bridge import LEG_MARK, Bridge, BridgePort, VlanColumns, carriers
from bmi.drivers.switch import ISOLATED, PortState, PortVlans, unknown_port
from bmi.errors import SwitchError


class OvsSwitch:
    """The ports of a bridge, but its own and those of gateways' legs."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._bridge = Bridge(parse_options(OvsOptions, options, driver="ovs"), SwitchError)
        self._locks: dict[str, threading.Lock] = {}

    def configure(self, port: str, vlans: PortVlans) -> Outcome:
        """Make a port carry exactly these VLANs, see `Switch`."""
        vlans.require_valid()
        with self._locks.setdefault(port, threading.Lock()):
            return self._configure(port, vlans)

    def port(self, port: str) -> PortState:
        """Read a port, see `Switch`."""
        found = self._bridge.port(port)
        if found is None or _is_leg(found):
            known = [state.port for state in self.ports()]
            raise unknown_port(port, f"bridge {self._bridge.name}", known)
        return _state(found)

    def ports(self) -> Iterable[PortState]:
        """Read every port, see `Switch`."""
        return [_state(port) for port in self._bridge.ports().values() if not _is_leg(port)]

    def heard_at(self, mac: str) -> list[str] | None:
        """Name the ports behind which a card was heard, see `Switch`."""
        return self._bridge.heard_at(mac)

    def close(self) -> None:
        """Let go of the connection."""
        self._bridge.close()

    def _configure(self, port: str, vlans: PortVlans) -> Outcome:
        if self.port(port).vlans not in {vlans, ISOLATED} and vlans != ISOLATED:
            # ovs-vswitchd's flow cache holds the old VLANs for a while, the new ones come into force at once.
            self._bridge.configure(port, VlanColumns.of(ISOLATED))
        outcome = self._bridge.configure(port, VlanColumns.of(vlans))
        found = self.port(port)
        if outcome is None or found.vlans != vlans:
            raise SwitchError(
                f"port {port} of bridge {self._bridge.name} was set to VLAN {vlans}, but has {found.vlans}",
                next_step="find out who else configures this bridge",
            )
        if vlans == ISOLATED and (leaks := carriers(self._bridge.ports().values())):
            raise SwitchError(
                f"port {port} of bridge {self._bridge.name} is in quarantine, but port {leaks[0]} carries "
                "every VLAN, the one of the quarantine too",
                next_step=f"give it a list of VLANs, as in ovs-vsctl set port {leaks[0]} trunks=100,101",
            )
        return outcome


def _is_leg(port: BridgePort) -> bool:
    return LEG_MARK in port.external_ids


def _state(port: BridgePort) -> PortState:
    return PortState(port.name, port.columns.vlans(), port.link)
