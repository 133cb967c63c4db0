"""What convergence makes again, and what it removes; `tests/unit/doctor` has what is found."""

import time
from ipaddress import IPv4Interface
from typing import Any

import pytest
from fastapi.testclient import TestClient

from bmi.doctor.examine import examine
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.errors import SwitchError, TargetError
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.provisioning import converge as module
from bmi.provisioning.converge import converge
from bmi.wait import wait_until


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


def findings(parts: Parts) -> list[str]:
    return [finding.code for finding in examine(parts, quick=True).errors]


def test_where_all_is_well_nothing_is_found(parts: Parts) -> None:
    assert findings(parts) == []


def test_a_lost_target_server_is_found_and_made_again(parts: Parts) -> None:
    (portal,) = parts.gateway.target.portals()
    (export,) = parts.gateway.target.exports(portal)
    parts.gateway.target.stop(portal)
    assert findings(parts) == ["export-missing"]
    converge(parts)
    assert findings(parts) == []
    assert [found.iqn for found in parts.gateway.target.exports(portal)] == [export.iqn]


def test_a_lost_leg_and_dhcp_server_are_made_again(parts: Parts) -> None:
    (leg,) = parts.gateway.legs.legs()
    parts.gateway.dnsmasq.stop(leg.network)
    assert findings(parts) == ["dhcp-not-running"]
    parts.gateway.legs.down(leg.network)
    assert findings(parts) == ["leg-missing"]
    converge(parts)
    assert findings(parts) == []
    assert list(parts.gateway.legs.legs()) == [leg]


def test_a_leg_of_no_network_is_found_and_removed(parts: Parts) -> None:
    parts.gateway.legs.up(new_id(), 999, IPv4Interface("10.9.9.254/24"))
    assert findings(parts) == ["leg-orphan"]
    converge(parts)
    assert findings(parts) == []


def test_ports_that_somebody_changed_are_set_right(parts: Parts) -> None:
    switch = parts.switches["sw1"]
    mine = switch.port("port1").vlans
    switch.configure("port1", ISOLATED)
    switch.configure("port2", PortVlans(native=mine.native))
    assert findings(parts) == ["port-differs", "port-not-isolated"]
    converge(parts)
    assert (switch.port("port1").vlans, switch.port("port2").vlans) == (mine, ISOLATED)


def test_a_gateway_that_cannot_be_made_whole_is_tried_again_soon(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the service starts while Ceph is away: nodes must not wait for the next interval."""
    monkeypatch.setattr(module, "FIRST_PAUSE", 0.05)
    target, tries = parts.gateway.target, []
    serve = target.serve

    def fails_twice(*args: Any) -> Any:
        tries.append(time.monotonic())
        if len(tries) <= 2:
            raise TargetError("Ceph does not answer", next_step="-")
        return serve(*args)

    monkeypatch.setattr(target, "serve", fails_twice)
    (portal,) = target.portals()
    target.stop(portal)
    convergence = module.Convergence(parts, ports=False)
    convergence.start()
    wait_until(lambda: list(target.portals()) == [portal], deadline=20, what="the export", next_step="-")
    convergence.close()
    assert len(tries) == 3
    assert tries[2] - tries[1] >= 0.1  # twice the first pause


def test_a_volume_of_nobody_is_reported_and_never_removed(parts: Parts) -> None:
    parts.storage.write_seed(new_id(), b"x" * 512)
    assert findings(parts) == ["volume-orphan"]
    converge(parts)
    assert findings(parts) == ["volume-orphan"]


def test_a_lost_disk_is_reported(parts: Parts) -> None:
    (disk,) = [info.volume for info in parts.storage.volumes() if info.volume.kind is Kind.DISK]
    parts.storage.remove(Volume(Kind.DISK, disk.id))
    assert findings(parts) == ["volume-missing"]


def test_one_broken_part_does_not_keep_the_others_from_being_mended(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise SwitchError("switch sw1 does not answer", next_step="look at it")

    monkeypatch.setattr(parts.switches["sw1"], "configure", refuse)
    (portal,) = parts.gateway.target.portals()
    parts.gateway.target.stop(portal)
    converge(parts)
    assert list(parts.gateway.target.portals()) == [portal]


def test_boot_scripts_of_no_network_are_not_served_any_more(parts: Parts) -> None:
    orphan = new_id()
    parts.gateway.node_http.serve(orphan, None, "127.0.0.1", 0)
    converge(parts)
    assert orphan not in parts.gateway.node_http.serving()
