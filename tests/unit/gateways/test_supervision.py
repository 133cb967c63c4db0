"""Daemons that end, hang, or do not come back at first."""

import itertools
import time
from ipaddress import IPv4Address
from typing import Any, cast
from uuid import UUID

import pytest
from fastapi.testclient import TestClient

from bmi.boot.models import Boot
from bmi.drivers.target import Portal
from bmi.drivers.target.memory import MemoryTarget
from bmi.errors import TargetError
from bmi.gateways import supervision
from bmi.ids import new_id
from bmi.parts import Parts
from bmi.provisioning.converge import converge
from bmi.wait import wait_until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "ROUND", 0.05)
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.05)


@pytest.fixture
def target(parts: Parts) -> MemoryTarget:
    return cast("MemoryTarget", parts.gateway.target)


@pytest.fixture
def portal(api: TestClient, site: Any, target: MemoryTarget, often: None) -> UUID:
    """The portal of n1, which is active."""
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    (portal,) = target.portals()
    return portal


def events(api: TestClient, kind: str) -> list[str]:
    found = api.get("/v1/nodes/n1/events").json()["items"]
    return [event["message"] for event in found if event["kind"] == kind]


def serves(target: MemoryTarget, portal: UUID) -> bool:
    try:
        return bool(target.exports(portal))
    except TargetError:
        return False


def wait_for_restart(api: TestClient, target: MemoryTarget, portal: UUID, *, times: int = 1) -> list[str]:
    """Wait until the node's disk is served again, and return what its timeline says of that."""
    wait_until(
        lambda: serves(target, portal) and len(events(api, "export.restarted")) == times,
        deadline=10,
        what="the disk to be served again",
        next_step="-",
    )
    return events(api, "export.restarted")


# --- what ended --------------------------------------------------------------------------------------------


def test_a_tgtd_that_ended_is_filled_again_and_the_node_is_told(
    api: TestClient, target: MemoryTarget, portal: UUID
) -> None:
    before = target.exports(portal)
    target.kill(portal)
    (told,) = wait_for_restart(api, target, portal)
    assert "serves again 0." in told
    assert target.exports(portal) == before


def test_a_dnsmasq_that_ended_is_filled_again(parts: Parts, portal: UUID) -> None:
    fake = cast("Any", parts.gateway.dnsmasq)
    ((network, hosts),) = fake.hosts.items()
    fake.kill(network)
    wait_until(lambda: fake.hosts.get(network) == hosts, deadline=10, what="dnsmasq", next_step="-")


def test_a_restart_that_fails_at_first_is_tried_again_soon(
    api: TestClient, target: MemoryTarget, portal: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve, tries = target.serve, []

    def fails_thrice(*args: Any) -> Any:
        tries.append(args)
        if len(tries) <= 3:
            raise TargetError("tgtd does not start", next_step="-")
        return serve(*args)

    monkeypatch.setattr(target, "serve", fails_thrice)
    target.kill(portal)
    wait_for_restart(api, target, portal)
    assert len(tries) == 4


def test_one_that_dies_again_and_again_is_started_after_growing_pauses(
    target: MemoryTarget, portal: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "FIRST_PAUSE", 0.2)
    serve = target.serve
    starts: list[float] = []

    def dies_at_once(*args: Any) -> Any:
        outcome = serve(*args)
        starts.append(time.monotonic())
        target.kill(portal)
        return outcome

    monkeypatch.setattr(target, "serve", dies_at_once)
    target.kill(portal)
    wait_until(lambda: len(starts) == 4, deadline=10, what="four starts", next_step="-")
    pauses = [after - before for before, after in itertools.pairwise(starts)]
    assert all(pause >= 0.2 * 2**number for number, pause in enumerate(pauses)), pauses


def test_an_export_that_nobody_needs_any_more_is_not_started_again(
    api: TestClient, site: Any, target: MemoryTarget, portal: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise TargetError("tgtd does not start", next_step="-")

    monkeypatch.setattr(target, "serve", refuse)
    target.kill(portal)
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    monkeypatch.undo()
    assert target.portals() == []
    assert events(api, "export.restarted") == []


# --- what hangs --------------------------------------------------------------------------------------------


def test_a_tgtd_that_hangs_is_ended_and_filled_again(
    api: TestClient, target: MemoryTarget, portal: UUID
) -> None:
    target.hang(portal)
    wait_for_restart(api, target, portal)


# --- what goes by force ------------------------------------------------------------------------------------


@pytest.fixture
def stubborn(target: MemoryTarget, portal: UUID, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that hangs, with its node logged in, and nobody who notices before the export is to go."""
    monkeypatch.setattr(target, "end_if_hung", lambda portal: False)
    (export,) = target.exports(portal)
    target.log_in(portal, export.iqn, "10.64.0.1")
    target.hang(portal)


@pytest.mark.usefixtures("stubborn")
def test_a_forced_removal_is_in_the_step_and_on_the_timeline(
    api: TestClient, site: Any, target: MemoryTarget
) -> None:
    ended = site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert ended["state"] == "succeeded"
    (step,) = [step for step in ended["steps"] if step["name"] == "export"]
    assert step["detail"] == "gone by force, with its whole server; still logged in were: 10.64.0.1"
    (told,) = events(api, "export.forced")
    assert told.endswith("ended by force, with its whole server; still logged in: 10.64.0.1")
    assert target.portals() == []


@pytest.mark.usefixtures("stubborn")
def test_force_that_convergence_uses_is_on_the_timeline_too(
    api: TestClient, parts: Parts, target: MemoryTarget, portal: UUID
) -> None:
    with parts.db.write() as session:
        session.get_one(Boot, portal).exported = False
    converge(parts)
    assert target.portals() == []
    assert len(events(api, "export.forced")) == 1


def test_a_hung_server_of_a_record_that_is_gone_is_ended(
    parts: Parts, target: MemoryTarget, portal: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "end_if_hung", lambda portal: False)
    orphan = Portal(new_id(), IPv4Address("127.0.0.9"), 3260)
    target.serve(orphan, [])
    target.hang(orphan.id)
    converge(parts)
    assert target.portals() == [portal]
