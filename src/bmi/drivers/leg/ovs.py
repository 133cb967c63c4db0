"""Leg driver `ovs`: a network namespace for each network, cabled to an access port of an Open vSwitch bridge.

    namespace bmi-<installation>-<network>         namespace of ovs-vswitchd
      eth0, the leg's address      =====veth=====    leg<digest>, port of the bridge, tag=<vlan>

The namespace's name tells the network's whole id: what a call that died left behind is found by it, or by the
marks on the port.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any
from uuid import UUID

from bmi import netns
from bmi.drivers import Outcome, Site, parse_options
from bmi.drivers.leg import Leg, require_vlan
from bmi.drivers.leg.arp import announce, is_taken
from bmi.drivers.openvswitch import OvsOptions
from bmi.drivers.openvswitch.bridge import INSTALLATION_MARK, LEG_MARK, Bridge, BridgePort, VlanColumns
from bmi.drivers.statefile import locked
from bmi.drivers.switch import PortVlans
from bmi.errors import AddressTaken, BmiError, CommandFailed, LegError
from bmi.run import run

_INTERFACE = "eth0"
_IPV6 = Path("/proc/sys/net/ipv6")  # missing where the kernel has no IPv6
_NO_ADDRESS = IPv4Interface("0.0.0.0/0")

_SYSCTLS = {
    # An address that goes away must not take the others of its subnet with it.
    "ipv4/conf/all/promote_secondaries": "1",
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
        wanted = Leg(network, vlan, address, self._namespace(network), _INTERFACE, frozenset(also))
        try:
            with self._alone():
                found = self._found(network, self._bridge.ports())
                if not _same(found, wanted):
                    self._make(wanted, lease)
            # Outside of the lock: asking for an address takes a while.
            for other in sorted(wanted.also - found.addresses):
                _take_over(wanted, other, lease)
            return wanted
        except CommandFailed as error:
            raise _failed(f"the leg on network {network} could not be made", error) from error
        except OSError as error:  # somebody removes the leg meanwhile
            raise LegError(
                f"the leg on network {network} could not be made: {error}", next_step="try again"
            ) from error

    def renew(self, lease: int | None) -> None:
        """Let the addresses of all legs stay, see `Legs`."""
        try:
            for namespace in self._namespaces():
                found = _read_interface(namespace).addresses
                _batch(namespace, *(_replace(address, lease) for address in found))
        except CommandFailed as error:
            raise _failed("the legs' addresses could not be renewed", error) from error

    def port(self, network: UUID) -> str:
        """Return the name of a leg's port: 15 characters, other ones for every gateway on the same bridge."""
        digest = hashlib.sha256(f"{self._site.installation} {network}".encode()).hexdigest()
        return f"leg{digest[:12]}"

    def down(self, network: UUID) -> Outcome:
        """Remove the leg on a network, see `Legs`."""
        try:
            with self._alone():
                # The namespace goes last: as long as it is there, `legs` sees what is left.
                removed = self._bridge.remove(self.port(network)) is Outcome.DONE
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

    def mtus(self, network: UUID) -> Mapping[str, int]:
        """Say how long frames may be at both ends of the cable, see `Legs`."""
        inner, outer = self._namespace(network), self.port(network)
        found = {}
        try:
            for namespace, interface in ((inner, _INTERFACE), (self._switch_namespace, outer)):
                there = namespace is None or netns.exists(namespace)
                if there and interface in netns.interfaces(namespace):
                    found[interface] = netns.mtu(namespace, interface)
        except OSError as error:  # somebody removes the leg meanwhile
            raise LegError(
                f"the leg on network {network} cannot be read: {error}", next_step="try again"
            ) from error
        return found

    def close(self) -> None:
        """Let go of the connection; the legs stay."""
        self._bridge.close()

    def _alone(self) -> AbstractContextManager[None]:
        """Keep other callers out: two that make and remove the same leg would meet half-way."""
        return locked(self._site.state_dir / "leg-ovs.lock", LegError)

    def _namespace(self, network: UUID) -> str:
        return f"bmi-{self._site.installation}-{network.hex}"

    def _namespaces(self) -> list[str]:
        prefix = self._namespace(UUID(int=0)).removesuffix(UUID(int=0).hex)
        return [name for name in netns.names() if name.startswith(prefix)]

    def _networks(self, ports: Mapping[str, BridgePort]) -> set[UUID]:
        """Find the networks that have anything of a leg, by marks and by names."""
        words = [name.rpartition("-")[2] for name in self._namespaces()]
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
        port = ports.get(self.port(network))
        vlan = port.columns.vlans().native or 0 if port else 0
        complete = (
            port is not None
            and not port.error
            and port.external_ids == self._marks(network)
            and port.columns == VlanColumns.of(PortVlans(vlan))
            and inner.up
        )
        address, *others = inner.addresses or (_NO_ADDRESS,)
        complete = complete and bool(inner.addresses)
        return Leg(network, vlan, address, namespace, _INTERFACE, frozenset(others), complete)

    def _make(self, leg: Leg, lease: int | None) -> None:
        """Make what is missing of a leg. The address is set last but the port: it says the rest is done."""
        netns.create(leg.namespace)
        netns.write_sysctls(leg.namespace, _SYSCTLS)
        self._connect(leg)
        run(["ethtool", "-K", _INTERFACE, "tx", "off"], namespace=leg.namespace)
        _set_address(leg, lease)
        self._bridge.add(
            self.port(leg.network), VlanColumns.of(PortVlans(leg.vlan)), self._marks(leg.network)
        )
        if lease is not None:  # another gateway may have had this address
            announce(leg.namespace, leg.interface, leg.address.ip)

    def _connect(self, leg: Leg) -> None:
        """Lay the cable between the leg's namespace and the switch's."""
        outer = self.port(leg.network)
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
        outer = self.port(network)
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


def _same(found: Leg, wanted: Leg) -> bool:
    """Say whether a leg is what it should be, but for addresses that it has still to take over."""
    return (
        found.complete
        and found.vlan == wanted.vlan
        and wanted.address in found.addresses
        and found.addresses <= wanted.addresses
    )


def _set_address(leg: Leg, lease: int | None) -> None:
    """Give a leg its own address, and take away those that it must not have."""
    unwanted = set(_read_interface(leg.namespace).addresses) - leg.addresses
    lines = [f"address delete {address} dev {_INTERFACE}" for address in unwanted]
    lines.append(_replace(leg.address, lease))
    if _IPV6.exists():
        # Without the search for duplicates, or it could not be used for the first seconds.
        lines.append(f"address replace {leg.address6} dev {_INTERFACE} nodad")
    _batch(leg.namespace, *lines, f"link set {_INTERFACE} up")


def _take_over(leg: Leg, address: IPv4Interface, lease: int | None) -> None:
    """Give a leg the address of a gateway that is gone.

    Raises:
        AddressTaken: It is not gone.
    """
    if is_taken(leg.namespace, leg.interface, address.ip):
        raise AddressTaken(
            f"a host on network {leg.network} answers for {address.ip}, the address of a gateway that is to be "
            "acted for",
            next_step="start the service on that gateway again, or switch its host off",
        )
    _batch(leg.namespace, _replace(address, lease))
    announce(leg.namespace, leg.interface, address.ip)


def _replace(address: IPv4Interface, lease: int | None) -> str:
    """Return the line that gives the interface an address, or lets it have it for longer (ip-address(8))."""
    time = "forever" if lease is None else str(lease)
    return f"address replace {address} brd + dev {_INTERFACE} valid_lft {time} preferred_lft {time}"


def _batch(namespace: str | None, *lines: str) -> None:
    """Let one ip(8) do several things, up to the first that fails."""
    where = [] if namespace is None else ["-n", namespace]
    run(["ip", *where, "-batch", "-"], input="".join(f"{line}\n" for line in lines).encode())


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
