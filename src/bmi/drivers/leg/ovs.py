"""Leg driver `ovs`: a network namespace for each network, cabled to an access port of an Open vSwitch bridge.

    namespace bmi-<installation>-<network>         namespace of ovs-vswitchd
      eth0, the leg's address      =====veth=====    leg<network>, port of the bridge, tag=<vlan>

The name of the namespace tells the whole id of the network: whatever a call that died left behind is found by it,
or by the marks on the port.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from ipaddress import IPv4Interface
from typing import Any
from uuid import UUID

from bmi import netns
from bmi.drivers import Outcome, Site, parse_options
from bmi.drivers.leg import Leg, address6
from bmi.drivers.openvswitch import OvsOptions
from bmi.drivers.openvswitch.bridge import INSTALLATION_MARK, LEG_MARK, Bridge, BridgePort, VlanColumns
from bmi.drivers.statefile import locked
from bmi.drivers.switch import VLANS, PortVlans
from bmi.errors import BmiError, CommandFailed, LegError
from bmi.ids import short
from bmi.run import run

_INTERFACE = "eth0"
_NO_ADDRESS = IPv4Interface("0.0.0.0/0")

_SYSCTLS = {
    # A node must not choose the gateway's routes or addresses, nor send packets through it.
    "ipv4/ip_forward": "0",
    "ipv4/conf/all/accept_redirects": "0",
    "ipv4/conf/default/accept_redirects": "0",
    "ipv4/conf/all/accept_source_route": "0",
    "ipv6/conf/all/forwarding": "0",
    "ipv6/conf/default/accept_ra": "0",
    "ipv6/conf/default/autoconf": "0",
    "ipv6/conf/default/accept_redirects": "0",
}


class OvsLegOptions(OvsOptions):
    """Options of the driver `ovs`."""

    namespace: str = ""
    """Network namespace that ovs-vswitchd runs in; empty for the host's own."""


class OvsLeg:
    """The legs of one installation on one bridge."""

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        parsed = parse_options(OvsLegOptions, options, driver="ovs")
        self._site = site
        self._bridge = Bridge(parsed, LegError)
        self._switch_namespace = parsed.namespace or None

    def up(self, network: UUID, vlan: int, address: IPv4Interface) -> Leg:
        """Make the leg on a network, see `Legs`."""
        if vlan not in VLANS:
            raise LegError(f"{vlan} is not the id of a VLAN", next_step=f"use {VLANS[0]} to {VLANS[-1]}")
        wanted = Leg(network, vlan, address, self._namespace(network), _INTERFACE)
        try:
            with self._alone():
                if self._find(network, self._bridge.ports()) != wanted:
                    self._make(wanted)
            return wanted
        except CommandFailed as error:
            raise _failed(f"the leg on network {network} could not be made", error) from error

    def down(self, network: UUID) -> Outcome:
        """Remove the leg on a network, see `Legs`."""
        try:
            with self._alone():
                # The namespace goes last: as long as it is there, `legs` sees what is left.
                removed = self._bridge.remove(_port_name(network)) is Outcome.DONE
                removed |= self._remove_cable(network)
                removed |= netns.delete(self._namespace(network))
            return Outcome.DONE if removed else Outcome.ALREADY
        except CommandFailed as error:
            raise _failed(f"the leg on network {network} could not be removed", error) from error

    def legs(self) -> Iterable[Leg]:
        """List the legs, see `Legs`."""
        ports = self._bridge.ports()
        marked = {
            _id(port.external_ids.get(LEG_MARK, ""))
            for port in ports.values()
            if port.external_ids.get(INSTALLATION_MARK) == self._site.installation
        }
        prefix = f"bmi-{self._site.installation}-"
        named = {_id(name.removeprefix(prefix)) for name in netns.names() if name.startswith(prefix)}
        try:
            return [self._find(network, ports) for network in sorted((marked | named) - {None})]
        except CommandFailed as error:
            raise _failed("the legs could not be listed", error) from error

    def close(self) -> None:
        """Let go of the connection; the legs stay."""
        self._bridge.close()
