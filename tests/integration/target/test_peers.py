"""The kernel's filter before portals: who gets through, and what became of the table meanwhile."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from nftables import Nftables

from bmi import netns
from bmi.drivers import Outcome
from bmi.drivers.target import Export, Portal
from bmi.drivers.target.tgt import TgtTarget
from bmi.errors import TargetError
from bmi.ids import new_id
from bmi.rights import OWN
from tests.iscsi import DROPPED, gets_through, make_export
from tests.legs import LEG, NODE, STRANGER, Wire

PEER, OTHER = IPv4Address(NODE), IPv4Address(STRANGER)


@pytest.fixture
def export(tmp_path: Path) -> Export:
    """Of files; the folder's other tests have theirs in Ceph."""
    return make_export(tmp_path, "a")


def connects(wire: Wire, portal: Portal, source: IPv4Address) -> bool:
    return gets_through(wire.far(portal), source)


def let_in(portal: Portal) -> bool:
    assert portal.namespace is not None
    return OWN.let_in(portal.namespace, portal.port, portal.peer)


def nft(wire: Wire, command: str) -> str:
    status, listed, complaint = netns.call_inside(wire.leg, lambda: Nftables().cmd(command))
    assert status == 0, complaint
    return str(listed)


def test_who_comes_from_elsewhere_cannot_even_show_a_stolen_secret(
    wire: Wire, target: TgtTarget, export: Export
) -> None:
    portal = replace(wire.portal(), peer=PEER)
    target.serve(portal, [export])
    assert wire.initiator(portal, export).size(1) > 0

    target.serve(replace(portal, peer=OTHER), [export])
    assert connects(wire, portal, OTHER)
    assert not connects(wire, portal, PEER)


def test_who_is_connected_when_the_peer_changes_is_cut_off(
    wire: Wire, target: TgtTarget, export: Export
) -> None:
    portal = replace(wire.portal(), peer=PEER)
    target.serve(portal, [export])
    with wire.connection(portal, export) as node:
        node.write(0, bytes(512))
        target.serve(replace(portal, peer=OTHER), [export])
        with ThreadPoolExecutor(1) as thread:
            written = thread.submit(node.write, 0, bytes(512))
            with pytest.raises(TimeoutError):
                written.result(timeout=DROPPED)
            target.serve(portal, [export])  # and goes on when it is let through again
            written.result(timeout=30)


@pytest.mark.parametrize(
    "what", ["flush ruleset", "flush chain inet bmi input", "flush set inet bmi guarded"]
)
def test_a_filter_that_somebody_emptied_is_mended(
    wire: Wire, target: TgtTarget, export: Export, what: str
) -> None:
    portal = replace(wire.portal(), peer=PEER)
    target.serve(portal, [export])
    nft(wire, what)
    assert connects(wire, portal, OTHER)
    assert target.serve(portal, [export]) is Outcome.DONE
    assert not connects(wire, portal, OTHER)
    assert connects(wire, portal, PEER)


def test_other_tables_of_the_namespace_are_left_alone(wire: Wire) -> None:
    nft(wire, "add table ip site")
    OWN.let_in(wire.leg, wire.portal().port, PEER)
    assert "table ip site" in nft(wire, "list ruleset")


def test_many_portals_at_once_get_each_its_own_peer(wire: Wire) -> None:
    portals = [
        Portal(new_id(), LEG, 3260 + number, wire.leg, IPv4Address("10.66.0.1") + number)
        for number in range(200)
    ]
    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(let_in, portals))
        assert not any(threads.map(let_in, portals))
    assert nft(wire, "list ruleset").count("drop") == 1
    assert nft(wire, "list ruleset").count("10.66.0.") == 200


def test_a_namespace_that_is_not_there_is_named(wire: Wire) -> None:
    with pytest.raises(TargetError, match="bmit-gone"):
        OWN.let_in("bmit-gone", 3260, PEER)
