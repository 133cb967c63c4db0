"""What the columns of Open vSwitch's table Port mean (ovs-vswitchd.conf.db(5), VLAN Configuration)."""

import pytest

from bmi.drivers.openvswitch.bridge import QUARANTINE, BridgePort, VlanColumns, carriers
from bmi.drivers.switch import ISOLATED, VLANS, PortVlans
from bmi.errors import VlanInvalid

ALL = frozenset(VLANS)


@pytest.mark.parametrize(
    ("vlans", "columns"),
    [
        (PortVlans(101), VlanColumns("access", 101)),
        (PortVlans(tagged=frozenset({7, 8})), VlanColumns("trunk", None, frozenset({7, 8}))),
        (PortVlans(5, frozenset({7, 8})), VlanColumns("native-untagged", 5, frozenset({7, 8}))),
        (ISOLATED, VlanColumns("access", QUARANTINE, protected=True)),
    ],
    ids=str,
)
def test_what_bmi_sets_reads_back_the_same(vlans: PortVlans, columns: VlanColumns) -> None:
    assert VlanColumns.of(vlans) == columns
    assert columns.vlans() == vlans


@pytest.mark.parametrize(
    ("columns", "vlans"),
    [
        (VlanColumns(), PortVlans(0, ALL)),  # a port as ovs-vsctl add-port makes it
        (VlanColumns("trunk"), PortVlans(0, ALL)),
        (VlanColumns(tag=5), PortVlans(5)),
        (VlanColumns(tag=5, trunks=frozenset({6})), PortVlans(5)),
        (VlanColumns(trunks=frozenset({6, 7})), PortVlans(None, frozenset({6, 7}))),
        (VlanColumns("trunk", 5, frozenset({0, 6})), PortVlans(0, frozenset({6}))),
        (VlanColumns("access"), PortVlans(0)),
        (VlanColumns("access", 5, frozenset({6})), PortVlans(5)),
        (VlanColumns("native-untagged", 5), PortVlans(5, ALL - {5})),
        (VlanColumns("native-tagged", 5, frozenset({5, 6})), PortVlans(5, frozenset({6}))),
        (VlanColumns("dot1q-tunnel", 5), PortVlans(5)),
        (VlanColumns("access", QUARANTINE), PortVlans(QUARANTINE)),
        (VlanColumns("trunk", None, frozenset({QUARANTINE}), True), PortVlans(None, frozenset({QUARANTINE}))),
    ],
    ids=str,
)
def test_what_others_set_is_never_taken_for_isolated(columns: VlanColumns, vlans: PortVlans) -> None:
    assert columns.vlans() == vlans
    assert columns.vlans() != ISOLATED


@pytest.mark.parametrize(
    ("columns", "found"),
    [
        (VlanColumns(), True),
        (VlanColumns("native-untagged", 5), True),
        (VlanColumns("trunk", None, frozenset({5, QUARANTINE})), True),
        (VlanColumns("access", QUARANTINE), True),
        (VlanColumns("native-tagged", QUARANTINE, frozenset({5})), True),
        (VlanColumns.of(ISOLATED), False),
        (VlanColumns("access", 5), False),
        (VlanColumns("trunk", None, frozenset({5})), False),
        (VlanColumns("trunk", QUARANTINE, frozenset({5})), False),
        (VlanColumns("native-untagged", 5, frozenset({6})), False),
    ],
    ids=str,
)
def test_carriers_are_the_ports_through_which_isolated_frames_could_leave(
    columns: VlanColumns, found: bool
) -> None:
    ports = [
        BridgePort("p1", columns, {}, None, ""),
        BridgePort("p2", VlanColumns("access", 9), {}, None, ""),
    ]
    assert carriers(ports) == (["p1"] if found else [])


def test_vlans_print_as_people_say_them() -> None:
    assert str(PortVlans(5, frozenset({8, 7}))) == "5, 7 (tagged), 8 (tagged)"
    assert str(ISOLATED) == "none"
    assert str(PortVlans(0)) == "0"


def test_every_vlan_but_the_reserved_ones_is_valid() -> None:
    PortVlans(1, frozenset(VLANS) - {1}).require_valid()
    ISOLATED.require_valid()
    for vlans in (PortVlans(0), PortVlans(tagged=frozenset({1, QUARANTINE})), PortVlans(6, frozenset({6}))):
        with pytest.raises(VlanInvalid):
            vlans.require_valid()
