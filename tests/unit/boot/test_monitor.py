"""What nodes do while they boot lands on their timelines, and moves the boot forward."""

from datetime import UTC, datetime
from ipaddress import IPv4Address
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi.api.nodes import Milestone
from bmi.boot.dhcp_log import BootEvent, Kind
from bmi.boot.models import Boot
from bmi.boot.monitor import Monitor
from bmi.boot.watch import diagnosis, wait_for
from bmi.drivers.target.memory import MemoryTarget
from bmi.errors import DeadlineExceeded, SwitchError
from bmi.nodes.service import bmc_of
from bmi.parts import Parts


@pytest.fixture(autouse=True)
def nobody_else_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the service's own monitor from seeing first, or once more, what a test lets happen."""
    monkeypatch.setattr("bmi.boot.monitor._INTERVAL", 3600.0)


@pytest.fixture
def record(api: TestClient, site: Any, parts: Parts) -> Boot:
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    return current(parts)


def current(parts: Parts) -> Boot:
    with parts.db.read() as session:
        return session.scalars(select(Boot)).one()


def events(api: TestClient) -> list[tuple[str, str]]:
    found = api.get("/v1/nodes/n1/events").json()["items"]
    return [(event["kind"], event["message"]) for event in found]


def saw(parts: Parts, record: Boot, kind: Kind, detail: str, *, mac: str | None, address: str | None) -> None:
    """Let the network's dnsmasq have seen something."""
    fake = cast("Any", parts.gateway.dnsmasq)
    at = IPv4Address(address) if address else None
    fake.seen[record.attachment.network_id].append(BootEvent(kind, mac, at, detail, datetime.now(UTC)))


def test_dhcp_and_tftp_are_told_from_the_card_or_the_address(
    api: TestClient, parts: Parts, record: Boot
) -> None:
    mac, address = record.attachment.nic.mac, record.attachment.address
    saw(parts, record, Kind.DISCOVER, "UEFI firmware", mac=mac, address=None)
    saw(parts, record, Kind.ACK, "", mac=mac, address=address)
    saw(parts, record, Kind.SENT, "snponly.efi", mac=None, address=address)
    Monitor(parts).look()
    assert events(api)[-3:] == [
        ("dhcp.discover", "UEFI firmware"),
        ("dhcp.ack", f"got the address {address}"),
        ("tftp.sent", "snponly.efi"),
    ]
    assert current(parts).milestone is Milestone.DHCP


def test_what_a_stranger_does_is_not_on_the_nodes_timeline(
    api: TestClient, parts: Parts, record: Boot
) -> None:
    before = events(api)
    saw(parts, record, Kind.REFUSED, "unknown", mac="52:54:00:99:99:99", address=None)
    Monitor(parts).look()
    assert events(api) == before


def test_each_log_in_is_told_once(api: TestClient, parts: Parts, record: Boot) -> None:
    target = cast("MemoryTarget", parts.gateway.target)
    (portal,) = target.portals()
    (export,) = target.exports(portal)
    monitor = Monitor(parts)
    target.log_in(portal, export.iqn, "10.64.0.1")
    monitor.look()
    monitor.look()
    target.log_in(portal, export.iqn, "10.64.0.1")
    monitor.look()
    told = [message for kind, message in events(api) if kind == "iscsi.login"]
    assert told == [f"logged in to {export.iqn} from 10.64.0.1"] * 2
    assert current(parts).milestone is Milestone.LOGIN


def test_a_boot_never_goes_back(parts: Parts, record: Boot) -> None:
    target = cast("MemoryTarget", parts.gateway.target)
    (portal,) = target.portals()
    (export,) = target.exports(portal)
    monitor = Monitor(parts)
    target.log_in(portal, export.iqn)
    monitor.look()
    # The operating system asks for its address again.
    saw(parts, record, Kind.ACK, "", mac=record.attachment.nic.mac, address=record.attachment.address)
    monitor.look()
    assert current(parts).milestone is Milestone.LOGIN


@pytest.mark.parametrize(
    ("milestone", "cause", "advice"),
    [
        (None, "no DHCP request from 52:54:00:00:00:01 in 90 s", "port port1 of switch sw1"),
        (Milestone.POWER, "no DHCP request", "VLAN 100"),
        (Milestone.DHCP, "never fetched its boot script", "console"),
        (Milestone.SCRIPT, "did not log in to its disk", "MTU"),
        (Milestone.LOGIN, "did not report to be up", "--until login"),
    ],
)
def test_a_boot_that_stops_is_diagnosed_by_how_far_it_came(
    parts: Parts, record: Boot, milestone: Milestone | None, cause: str, advice: str
) -> None:
    record.milestone = milestone
    error = diagnosis(parts, record, 90)
    assert cause in error.message
    assert advice in error.next_step


def silence(parts: Parts, record: Boot) -> tuple[str, str]:
    """What is said of a node that got no address."""
    record.milestone = Milestone.POWER
    error = diagnosis(parts, record, 90)
    return error.message, error.next_step


def test_a_port_without_a_link_is_named(parts: Parts, record: Boot) -> None:
    switch = cast("Any", parts.switches["sw1"])
    switch.plug("port1", None)
    cause, advice = silence(parts, record)
    assert cause == "no DHCP request from 52:54:00:00:00:01: port port1 of switch sw1 has no link"
    assert "plugged in at both ends" in advice
    switch.plug("port1", record.attachment.nic.mac)
    cause, advice = silence(parts, record)
    assert cause == "no DHCP request from 52:54:00:00:00:01 in 90 s"
    assert advice.startswith("port port1 of switch sw1 has a link; ")


def test_that_the_power_is_on_is_only_the_bmc_s_word(parts: Parts, record: Boot) -> None:
    parts.powers["memory"].on(bmc_of(parts, record.node_id)[1])
    cause, advice = silence(parts, record)
    assert cause == "no DHCP request from 52:54:00:00:00:01 in 90 s"
    assert advice.endswith("and that the node really has power: only its BMC says so")


def test_a_card_that_is_heard_elsewhere_is_a_wrong_cable(parts: Parts, record: Boot) -> None:
    switch = cast("Any", parts.switches["sw1"])
    switch.plug("port1", None)
    switch.plug("port7", record.attachment.nic.mac)
    cause, advice = silence(parts, record)
    assert "the switch heard that card at port port7, not at port port1 of switch sw1" in cause
    assert "correct the port in the inventory" in advice


def test_a_node_that_takes_no_offer_may_have_another_one(parts: Parts, record: Boot) -> None:
    saw(parts, record, Kind.DISCOVER, "iPXE", mac=record.attachment.nic.mac, address=None)
    Monitor(parts).look()
    cause, advice = silence(parts, record)
    assert cause == "52:54:00:00:00:01 asked for an address, was offered one, and took none in 90 s"
    assert "another DHCP server may answer on network net" in advice


def test_a_switch_that_does_not_answer_is_no_diagnosis(
    parts: Parts, record: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(port: str) -> None:
        raise SwitchError("it hangs", next_step="look")

    monkeypatch.setattr(parts.switches["sw1"], "port", fail, raising=False)
    assert silence(parts, record)[0] == "no DHCP request from 52:54:00:00:00:01 in 90 s"


def gave_up(parts: Parts, record: Boot) -> DeadlineExceeded:
    with pytest.raises(DeadlineExceeded) as error:
        wait_for(parts, record.id, Milestone.UP, 0, tell=lambda *_: None, stop=lambda: None)
    return error.value


def test_a_loader_that_does_not_start_is_named(parts: Parts, record: Boot) -> None:
    """As where Secure Boot refuses it: the firmware loads it, and that is the last that is heard."""
    mac, address = record.attachment.nic.mac, record.attachment.address
    monitor = Monitor(parts)
    saw(parts, record, Kind.ACK, "", mac=mac, address=address)
    monitor.look()
    assert "never fetched its boot script" in gave_up(parts, record).message
    saw(parts, record, Kind.SENT, "snponly.efi", mac=None, address=address)
    monitor.look()
    error = gave_up(parts, record)
    assert error.message == "the firmware of node n1 loaded snponly.efi, but that did not start"
    assert "Secure Boot" in error.next_step
    saw(parts, record, Kind.DISCOVER, "iPXE", mac=mac, address=None)
    monitor.look()
    assert "never fetched its boot script" in gave_up(parts, record).message
