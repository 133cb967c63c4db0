"""Leg driver `ovs`: a network namespace for each network, cabled to an access port of an Open vSwitch bridge.

    namespace bmi-<installation>-<network>         namespace of ovs-vswitchd
      eth0, the leg's address      =====veth=====    leg<network>, port of the bridge, tag=<vlan>

The namespace's name tells the network's whole id: what a call that died left behind is found by it, or by the
marks on the port.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any
from uuid import UUID

from bmi import netns
from bmi.drivers import Outcome, Site, parse_options
from bmi.drivers.leg import Leg, require_vlan
from bmi.drivers.openvswitch import OvsOptions
from bmi.drivers.openvswitch.bridge import INSTALLATION_MARK, LEG_MARK, Bridge, BridgePort, VlanColumns
from bmi.drivers.statefile import locked
from bmi.drivers.switch import PortVlans
from bmi.errors import BmiError, CommandFailed, LegError
from bmi.ids import short
from bmi.run import run

_INTERFACE = "eth0"
_IPV6 = Path("/proc/sys/net/ipv6")  # missing where the kernel has no IPv6
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
        require_vlan(vlan)
        wanted = Leg(network, vlan, address, self._namespace(network), _INTERFACE)
        try:
            with self._alone():
                if self._found(network, self._bridge.ports()) != wanted:
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
        try:
            with self._alone():
                ports = self._bridge.ports()
                return [self._found(network, ports) for network in sorted(self._networks(ports))]
        except CommandFailed as error:
            raise _failed("the legs could not be listed", error) from error

    def close(self) -> None:
        """Let go of the connection; the legs stay."""
        self._bridge.close()

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other callers out: two that make and remove the same leg would meet half-way."""
        return locked(self._site.state_dir / "leg-ovs.lock", LegError)

    def _namespace(self, network: UUID) -> str:
        return f"bmi-{self._site.installation}-{network.hex}"

    def _networks(self, ports: Mapping[str, BridgePort]) -> set[UUID]:
        """Find the networks that have anything of a leg, by marks and by names."""
        prefix = self._namespace(UUID(int=0)).removesuffix(UUID(int=0).hex)
        words = [name.removeprefix(prefix) for name in netns.names() if name.startswith(prefix)]
        words += [
            port.external_ids.get(LEG_MARK, "")
            for port in ports.values()
            if port.external_ids.get(INSTALLATION_MARK) == self._site.installation
        ]
        return {id for word in words if (id := _id(word))}

    def _found(self, network: UUID, ports: Mapping[str, BridgePort]) -> Leg:
        """Describe the leg on a network as it is, be it half-made or not there at all."""
        namespace = self._namespace(network)
        inner = _read_interface(namespace)
        port = ports.get(_port_name(network))
        vlan = port.columns.vlans().native or 0 if port else 0
        complete = (
            port is not None
            and not port.error
            and port.external_ids == self._marks(network)
            and port.columns == VlanColumns.of(PortVlans(vlan))
            and inner.up
        )
        address = inner.addresses[0] if inner.addresses else _NO_ADDRESS
        return Leg(network, vlan, address, namespace, _INTERFACE, complete and len(inner.addresses) == 1)

    def _make(self, leg: Leg) -> None:
        """Make what is missing of a leg. The address is set last but the port: it says the rest is done."""
        netns.create(leg.namespace)
        netns.write_sysctls(leg.namespace, _SYSCTLS)
        self._connect(leg)
        run(["ethtool", "-K", _INTERFACE, "tx", "off"], namespace=leg.namespace)
        _set_address(leg)
        self._bridge.add(
            _port_name(leg.network), VlanColumns.of(PortVlans(leg.vlan)), self._marks(leg.network)
        )

    def _connect(self, leg: Leg) -> None:
        """Lay the cable between the leg's namespace and the switch's."""
        outer = _port_name(leg.network)
        # The switch's host sees these frames too; it must not answer any.
        lines = [f"link set {outer} addrgenmode none", f"link set {outer} arp off up"]
        inner = _INTERFACE in netns.interfaces(leg.namespace)
        if not inner or outer not in netns.interfaces(self._switch_namespace):
            if inner:
                _batch(leg.namespace, f"link delete {_INTERFACE}")
            self._remove_cable(leg.network)
            peer = f"name {_INTERFACE} address {_mac(leg)} netns {leg.namespace}"
            lines.insert(0, f"link add {outer} type veth peer {peer}")
        _batch(self._switch_namespace, *lines)

    def _remove_cable(self, network: UUID) -> bool:
        outer = _port_name(network)
        found = outer in netns.interfaces(self._switch_namespace)
        if found:
            try:
                _batch(self._switch_namespace, f"link delete {outer}")
            except CommandFailed:
                # It goes by itself some time after somebody deleted the leg's namespace.
                if outer in netns.interfaces(self._switch_namespace):
                    raise
        return found

    def _marks(self, network: UUID) -> dict[str, str]:
        return {INSTALLATION_MARK: self._site.installation, LEG_MARK: str(network)}


@dataclass(frozen=True)
class _Inner:
    """The leg's end of the cable."""

    up: bool = False
    """Whether both ends are."""
    addresses: tuple[IPv4Interface, ...] = ()


def _read_interface(namespace: str) -> _Inner:
    if not netns.exists(namespace) or _INTERFACE not in netns.interfaces(namespace):
        return _Inner()
    [found] = json.loads(run(["ip", "-n", namespace, "-j", "address", "show", "dev", _INTERFACE]))
    addresses = [
        IPv4Interface(f"{address['local']}/{address['prefixlen']}")
        for address in found["addr_info"]
        if address["family"] == "inet"
    ]
    return _Inner({"UP", "LOWER_UP"} <= set(found["flags"]), tuple(addresses))


def _set_address(leg: Leg) -> None:
    others = set(_read_interface(leg.namespace).addresses) - {leg.address}
    lines = [f"address delete {address} dev {_INTERFACE}" for address in others]
    lines.append(f"address replace {leg.address} brd + dev {_INTERFACE}")
    if _IPV6.exists():
        # Without the search for duplicates, or it could not be used for the first seconds.
        lines.append(f"address replace {leg.address6} dev {_INTERFACE} nodad")
    _batch(leg.namespace, *lines, f"link set {_INTERFACE} up")


def _batch(namespace: str | None, *lines: str) -> None:
    """Let one ip(8) do several things, up to the first that fails."""
    where = [] if namespace is None else ["-n", namespace]
    run(["ip", *where, "-batch", "-"], input="".join(f"{line}\n" for line in lines).encode())


def _port_name(network: UUID) -> str:
    return f"leg{short(network)}"


def _mac(leg: Leg) -> str:
    """Return the leg's MAC address: always the same, so that nodes go on when it was lost and made again."""
    digest = hashlib.sha256(leg.network.bytes + leg.address.packed).digest()
    # The first octet says that no vendor gave it (IEEE 802, 8.4.2).
    return ":".join(f"{octet:02x}" for octet in b"\x02" + digest[:5])


def _id(word: str) -> UUID | None:
    try:
        return UUID(word)
    except ValueError:
        return None


def _failed(what: str, error: CommandFailed) -> BmiError:
    return LegError(f"{what}: {error.message}", next_step=error.next_step)
