"""What convergence makes again, what it removes, and what it only reports."""

from ipaddress import IPv4Interface
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.storage import Kind, Volume
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.errors import SwitchError
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.provisioning.converge import converge, examine


@pytest.fixture(autouse=True)
def active(api: TestClient, site: Any) -> None:
    """Node n1 is active, node n2 is free."""
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)
    site.node("n2", 2)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))


def findings(parts: Parts) -> list[tuple[str, str]]:
    return [(finding.kind, finding.family) for finding in examine(parts).findings]


def test_where_all_is_well_nothing_is_found(parts: Parts) -> None:
    assert findings(parts) == []


def test_a_lost_target_server_is_found_and_made_again(parts: Parts) -> None:
    (portal,) = parts.target.portals()
    (export,) = parts.target.exports(portal)
    parts.target.stop(portal)
    assert findings(parts) == [("missing", "target")]
    converge(parts)
    assert findings(parts) == []
    assert [found.iqn for found in parts.target.exports(portal)] == [export.iqn]


def test_a_lost_leg_and_dhcp_server_are_made_again(parts: Parts) -> None:
    (leg,) = parts.legs.legs()
    parts.legs.down(leg.network)
    parts.dnsmasq.stop(leg.network)
    assert ("missing", "boot") in findings(parts)
    converge(parts)
    assert findings(parts) == []
    assert list(parts.legs.legs()) == [leg]


def test_a_leg_of_no_network_is_found_and_removed(parts: Parts) -> None:
    parts.legs.up(new_id(), 999, IPv4Interface("10.9.9.254/24"))
    assert findings(parts) == [("orphan", "leg")]
    converge(parts)
    assert findings(parts) == []


def test_ports_that_somebody_changed_are_set_right(parts: Parts) -> None:
    switch = parts.switches["sw1"]
    mine = switch.port("port1").vlans
    switch.configure("port1", ISOLATED)
    switch.configure("port2", PortVlans(native=mine.native))
    assert findings(parts) == [("differs", "switch"), ("differs", "switch")]
    converge(parts)
    assert (switch.port("port1").vlans, switch.port("port2").vlans) == (mine, ISOLATED)


def test_a_volume_of_nobody_is_reported_and_never_removed(parts: Parts) -> None:
    parts.storage.write_seed(new_id(), b"x" * 512)
    assert findings(parts) == [("orphan", "storage")]
    converge(parts)
    assert findings(parts) == [("orphan", "storage")]


def test_a_lost_disk_is_reported(parts: Parts) -> None:
    (disk,) = [info.volume for info in parts.storage.volumes() if info.volume.kind is Kind.DISK]
    parts.storage.remove(Volume(Kind.DISK, disk.id))
    assert ("missing", "storage") in findings(parts)


def test_one_broken_part_does_not_keep_the_others_from_being_mended(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SwitchError("switch sw1 does not answer", next_step="look at it")

    monkeypatch.setattr(parts.switches["sw1"], "configure", refuse)
    (portal,) = parts.target.portals()
    parts.target.stop(portal)
    converge(parts)
    assert list(parts.target.portals()) == [portal]
