"""What an `ovs` leg is made of, and half of it."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from ipaddress import IPv4Interface
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from bmi import netns
from bmi.drivers import Outcome, Site
from bmi.drivers.leg import Leg, address6
from bmi.drivers.leg.ovs import OvsLeg
from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.ovs import OvsSwitch
from bmi.errors import AddressTaken, CommandFailed, LegError, SwitchPortUnknown
from bmi.ids import new_id
from bmi.lab.openvswitch import OpenVSwitch
from bmi.run import run
from bmi.wait import wait_until
from tests.wires import running_switch

ADDRESS = IPv4Interface("10.70.0.1/24")
SECOND = IPv4Interface("10.70.0.2/24")


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[OpenVSwitch]:
    with running_switch(tmp_path) as switch:
        yield switch


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path / "state", uuid4().hex[:8])
    yield site
    for name in netns.names():
        if name.startswith(f"bmi-{site.installation}-"):
            netns.delete(name)


@pytest.fixture
def legs(lab: OpenVSwitch, site: Site) -> Iterator[OvsLeg]:
    with closing(OvsLeg({"database": lab.db, "namespace": lab.namespace}, site)) as driver:
        yield driver


@pytest.fixture
def network() -> UUID:
    return new_id()


def vsctl(lab: OpenVSwitch, *words: str) -> str:
    return run(["ovs-vsctl", f"--db={lab.db}", *words]).strip()


def shown(leg: Leg, interface: str = "eth0") -> dict[str, object]:
    [found] = json.loads(run(["ip", "-n", leg.namespace, "-j", "address", "show", "dev", interface]))
    return dict(found)


def addresses(leg: Leg) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {"inet": set(), "inet6": set()}
    info = shown(leg)["addr_info"]
    assert isinstance(info, list)
    for each in info:
        if each.get("scope") == "global":
            assert not each.get("tentative")
            found[each["family"]].add(f"{each['local']}/{each['prefixlen']}")
    return found


def test_a_leg_has_its_addresses_and_the_checksums_done(legs: OvsLeg, network: UUID) -> None:
    leg = legs.up(network, 300, ADDRESS)

    assert addresses(leg) == {"inet": {"10.70.0.1/24"}, "inet6": {str(leg.address6)}}
    assert "tx-checksumming: off" in run(["ethtool", "-k", "eth0"], namespace=leg.namespace)
    assert shown(leg)["operstate"] == "UP"
    flags = shown(leg, "lo")["flags"]
    assert isinstance(flags, list)
    assert "UP" in flags


def test_a_leg_can_be_listened_on_at_once_by_either_address(legs: OvsLeg, network: UUID) -> None:
    leg = legs.up(network, 300, ADDRESS)
    for family, host in ((socket.AF_INET, leg.address.ip), (socket.AF_INET6, leg.address6.ip)):
        with netns.socket_inside(leg.namespace, family, socket.SOCK_STREAM) as server:
            server.bind((str(host), 0))


def test_the_ipv6_address_is_local_and_of_the_network() -> None:
    one, other = address6(new_id(), ADDRESS), address6(new_id(), ADDRESS)
    assert one.network != other.network
    assert one.ip.is_private
    assert str(one).startswith("fd")
    assert one.network.prefixlen == 64


def test_two_gateways_on_one_network_have_two_ipv6_addresses() -> None:
    network = new_id()
    one, other = address6(network, ADDRESS), address6(network, SECOND)
    assert one == address6(network, ADDRESS)
    assert one != other
    assert one.network == other.network


def test_the_port_is_marked_and_the_switch_driver_leaves_it_alone(
    legs: OvsLeg, lab: OpenVSwitch, site: Site, network: UUID
) -> None:
    legs.up(network, 300, ADDRESS)
    port = legs.port(network)

    assert vsctl(lab, "get", "Port", port, "tag") == "300"
    assert vsctl(lab, "get", "Port", port, "external_ids:bmi-installation").strip('"') == site.installation
    assert vsctl(lab, "get", "Port", port, "external_ids:bmi-leg") == f'"{network}"'
    with closing(OvsSwitch({"database": lab.db}, site)) as switch:
        assert list(switch.ports()) == []
        with pytest.raises(SwitchPortUnknown, match=port):
            switch.configure(port, PortVlans(301))
    assert vsctl(lab, "get", "Port", port, "tag") == "300"


def test_nodes_choose_neither_routes_nor_addresses_of_the_gateway(legs: OvsLeg, network: UUID) -> None:
    leg = legs.up(network, 300, ADDRESS)
    for parameter in (
        "ipv4/ip_forward",
        "ipv4/conf/all/accept_source_route",
        "ipv4/conf/eth0/accept_redirects",
        "ipv6/conf/all/forwarding",
        "ipv6/conf/eth0/accept_ra",
        "ipv6/conf/eth0/autoconf",
        "ipv6/conf/eth0/accept_redirects",
    ):
        value = netns.call_inside(leg.namespace, Path("/proc/sys/net", parameter).read_text)
        assert value == "0\n", parameter


def test_the_switch_s_end_of_the_cable_has_no_address(legs: OvsLeg, lab: OpenVSwitch, network: UUID) -> None:
    legs.up(network, 300, ADDRESS)
    [outer] = json.loads(run(["ip", "-n", lab.namespace, "-j", "address", "show", legs.port(network)]))
    assert outer["addr_info"] == []
    assert "NOARP" in outer["flags"]


def test_a_leg_that_is_made_again_has_the_same_mac(legs: OvsLeg, network: UUID) -> None:
    mac = shown(legs.up(network, 300, ADDRESS))["address"]
    legs.down(network)
    assert shown(legs.up(network, 300, ADDRESS))["address"] == mac
    assert shown(legs.up(new_id(), 301, ADDRESS))["address"] != mac


def test_up_leaves_a_leg_that_is_as_asked_alone(legs: OvsLeg, network: UUID) -> None:
    leg = legs.up(network, 300, ADDRESS)
    index = shown(leg)["ifindex"]
    legs.up(network, 300, ADDRESS)
    legs.up(network, 301, ADDRESS)
    legs.up(network, 301, IPv4Interface("10.71.0.1/24"))
    assert shown(leg)["ifindex"] == index
    assert addresses(leg)["inet"] == {"10.71.0.1/24"}


def test_down_leaves_nothing(legs: OvsLeg, lab: OpenVSwitch, network: UUID) -> None:
    ports, interfaces = vsctl(lab, "list-ports", "br0"), netns.interfaces(lab.namespace)
    leg = legs.up(network, 300, ADDRESS)

    legs.down(network)

    assert not netns.exists(leg.namespace)
    assert vsctl(lab, "list-ports", "br0") == ports
    assert netns.interfaces(lab.namespace) == interfaces


def port_of(lab: OpenVSwitch, leg: Leg) -> str:
    """The leg's port, by the network's mark: found as a person would, whatever its name."""
    rows = vsctl(
        lab, "-f", "csv", "--no-headings", "-d", "bare", "--columns=name,external_ids", "list", "Port"
    )
    return next(row.split(",")[0] for row in rows.splitlines() if str(leg.network) in row)


def remove_port(lab: OpenVSwitch, leg: Leg) -> None:
    vsctl(lab, "del-port", port_of(lab, leg))


def remove_cable(lab: OpenVSwitch, leg: Leg) -> None:
    run(["ip", "-n", leg.namespace, "link", "delete", "eth0"])


def remove_namespace(lab: OpenVSwitch, leg: Leg) -> None:
    netns.delete(leg.namespace)


def remove_address(lab: OpenVSwitch, leg: Leg) -> None:
    run(["ip", "-n", leg.namespace, "address", "delete", str(leg.address), "dev", "eth0"])


def set_down(lab: OpenVSwitch, leg: Leg) -> None:
    run(["ip", "-n", leg.namespace, "link", "set", "eth0", "down"])


def set_other_end_down(lab: OpenVSwitch, leg: Leg) -> None:
    run(["ip", "-n", lab.namespace, "link", "set", port_of(lab, leg), "down"])


def list_vlans(lab: OpenVSwitch, leg: Leg) -> None:
    vsctl(lab, "set", "Port", port_of(lab, leg), "vlan_mode=trunk", "trunks=7,8")


def move_port(lab: OpenVSwitch, leg: Leg) -> None:
    vsctl(lab, "set", "Port", port_of(lab, leg), "tag=7")


def open_port(lab: OpenVSwitch, leg: Leg) -> None:
    vsctl(lab, "clear", "Port", port_of(lab, leg), "tag", "--", "clear", "Port",
          port_of(lab, leg), "vlan_mode")  # fmt: skip


def add_address(lab: OpenVSwitch, leg: Leg) -> None:
    run(["ip", "-n", leg.namespace, "address", "add", "10.9.9.9/24", "dev", "eth0"])


DAMAGE = [
    remove_port,
    remove_cable,
    remove_namespace,
    remove_address,
    set_down,
    set_other_end_down,
    list_vlans,
    move_port,
    open_port,
    add_address,
]


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: str(damage.__name__))
@pytest.mark.parametrize("then", ["up", "down"])
def test_a_damaged_leg_is_seen_and_can_be_mended_or_removed(
    legs: OvsLeg, lab: OpenVSwitch, network: UUID, damage: object, then: str
) -> None:
    leg = legs.up(network, 300, ADDRESS)
    assert callable(damage)
    damage(lab, leg)

    [found] = legs.legs()
    assert found.network == network
    assert found != leg
    if then == "up":
        assert legs.up(network, 300, ADDRESS) == leg
        assert list(legs.legs()) == [leg]
        assert addresses(leg)["inet"] == {"10.70.0.1/24"}
        assert vsctl(lab, "get", "Interface", legs.port(network), "error") == "[]"
    assert legs.down(network) is Outcome.DONE
    assert list(legs.legs()) == []


def test_a_leg_comes_back_after_its_namespace_was_deleted_under_a_process(
    legs: OvsLeg, network: UUID
) -> None:
    """The process keeps the old namespace alive, and with it the cable of the old leg."""
    leg = legs.up(network, 300, ADDRESS)
    with netns.socket_inside(leg.namespace, socket.AF_INET, socket.SOCK_DGRAM):
        netns.delete(leg.namespace)
        assert legs.up(network, 300, ADDRESS) == leg
        assert list(legs.legs()) == [leg]


def test_a_switch_in_no_namespace_of_that_name_is_an_error(lab: OpenVSwitch, site: Site) -> None:
    with (
        closing(OvsLeg({"database": lab.db, "namespace": "tns-no-such"}, site)) as driver,
        pytest.raises(LegError, match="tns-no-such"),
    ):
        driver.up(new_id(), 300, ADDRESS)


def test_a_switch_that_does_not_answer_is_an_error(tmp_path: Path, site: Site) -> None:
    options = {"database": f"unix:{tmp_path}/db.sock", "timeout": 0.5}
    with closing(OvsLeg(options, site)) as driver, pytest.raises(LegError, match="ovsdb-server"):
        driver.legs()


def test_a_namespace_that_carries_our_name_only_partly_is_not_ours(legs: OvsLeg, site: Site) -> None:
    name = f"bmi-{site.installation}-something"
    netns.create(name)
    assert list(legs.legs()) == []


# --- two gateways on one network --------------------------------------------------------------------------


@pytest.fixture
def others(lab: OpenVSwitch, tmp_path: Path) -> Iterator[OvsLeg]:
    """The legs of a second gateway, on the same switch."""
    site = Site(tmp_path / "second", uuid4().hex[:8])
    with closing(OvsLeg({"database": lab.db, "namespace": lab.namespace}, site)) as driver:
        yield driver
    for name in netns.names():
        if name.startswith(f"bmi-{site.installation[:7]}"):  # the node's too
            netns.delete(name)


def reaches(leg: Leg, address: IPv4Interface) -> bool:
    try:
        run(["ping", "-c", "1", "-W", "1", str(address.ip)], namespace=leg.namespace)
    except CommandFailed:
        return False
    return True


def test_two_gateways_have_legs_of_their_own_on_one_network(
    legs: OvsLeg, others: OvsLeg, network: UUID
) -> None:
    one, other = legs.up(network, 300, ADDRESS), others.up(network, 300, SECOND)
    assert legs.port(network) != others.port(network)
    assert list(legs.legs()) == [one]
    assert list(others.legs()) == [other]
    assert reaches(one, SECOND)
    others.down(network)
    assert list(legs.legs()) == [one]


def test_the_address_of_a_gateway_that_lives_is_not_taken(
    legs: OvsLeg, others: OvsLeg, network: UUID
) -> None:
    legs.up(network, 300, ADDRESS, lease=60)
    with pytest.raises(AddressTaken, match=str(ADDRESS.ip)):
        others.up(network, 300, SECOND, also=[ADDRESS], lease=60)
    [leg] = others.legs()
    assert addresses(leg)["inet"] == {str(SECOND)}


def test_a_gateway_that_died_loses_its_addresses_and_another_takes_them_over(
    legs: OvsLeg, others: OvsLeg, lab: OpenVSwitch, network: UUID
) -> None:
    node = network_of_a_node(lab, others, network)
    dead = legs.up(network, 300, ADDRESS, lease=2)
    assert reaches(node, ADDRESS)  # so the node knows the dead gateway's card

    wait_until(
        lambda: addresses(dead)["inet"] == set(), deadline=10, what="the lease to end", next_step="see why"
    )
    leg = others.up(network, 300, SECOND, also=[ADDRESS], lease=60)

    assert leg.also == {ADDRESS}
    assert addresses(leg)["inet"] == {str(ADDRESS), str(SECOND)}
    assert list(others.legs()) == [leg]
    assert reaches(node, ADDRESS)
    # It comes back: first the other one lets go.
    others.up(network, 300, SECOND, lease=60)
    legs.up(network, 300, ADDRESS, lease=60)
    assert addresses(dead)["inet"] == {str(ADDRESS)}
    assert reaches(node, ADDRESS)


def network_of_a_node(lab: OpenVSwitch, others: OvsLeg, network: UUID) -> Leg:
    """A third host on the network, made as a leg is, with an address like a node's."""
    site = Site(others._site.state_dir / "node", others._site.installation[:7] + "n")
    with closing(OvsLeg({"database": lab.db, "namespace": lab.namespace}, site)) as driver:
        return driver.up(network, 300, IPv4Interface("10.70.0.77/24"))


def test_leases_are_renewed_for_all_addresses_and_can_be_made_to_stay(legs: OvsLeg, network: UUID) -> None:
    leg = legs.up(network, 300, SECOND, also=[ADDRESS], lease=5)
    legs.renew(50)
    assert all(40 < seconds <= 50 for seconds in lifetimes(leg))
    legs.renew(None)
    assert set(lifetimes(leg)) == {0xFFFF_FFFF}  # what ip(8) shows as forever


def lifetimes(leg: Leg) -> list[int]:
    info = shown(leg)["addr_info"]
    assert isinstance(info, list)
    return [each["valid_life_time"] for each in info if each["family"] == "inet"]
