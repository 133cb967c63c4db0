"""Provision and deprovision, on memory drivers: what a tenant asks for and sees."""

from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from bmi.api.doctor import Report
from bmi.boot.models import Boot
from bmi.boot.service import boot_token
from bmi.drivers.power import Bmc, BootDevice, PowerState
from bmi.drivers.storage import Kind
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.errors import BmcRefused, BmcUnreachable, StorageFull
from bmi.parts import Parts
from bmi.wait import wait_until

NOTHING = {
    "disks": 0,
    "seeds": 0,
    "exports": 0,
    "sessions": 0,
    "target_servers": 0,
    "leases": 0,
    "ports_in_use": 0,
}


@pytest.fixture(autouse=True)
def red(site: Any) -> None:
    """A project with a network, two nodes and a golden image."""
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)
    site.node("n2", 2)


def provision(api: TestClient, node: str = "n1", **more: Any) -> Any:
    body = {"image": "golden", "network": "net", "project": "red", "until": "power", **more}
    return api.post(f"/v1/nodes/{node}/provision", json=body)


def left(api: TestClient) -> dict[str, int]:
    inventory = api.get("/v1/doctor?quick=true").json()["inventory"]
    return {name: inventory[name] for name in NOTHING}


def node(api: TestClient, name: str = "n1") -> dict[str, Any]:
    return cast("dict[str, Any]", api.get(f"/v1/nodes/{name}").json())


def test_a_node_boots_from_a_clone_in_its_projects_vlan(api: TestClient, site: Any, parts: Parts) -> None:
    operation = site.ended(provision(api))

    assert operation["state"] == "succeeded", operation
    assert [step["name"] for step in operation["steps"]] == [
        "power off",
        "disk",
        "seed",
        "export",
        "boot service",
        "network",
        "power on",
        "watch",
    ]
    found = node(api)
    assert (found["state"], found["project"], found["image"]) == ("active", "red", "golden")
    network = api.get("/v1/networks/net?project=red").json()
    assert parts.switches["sw1"].port("port1").vlans == PortVlans(native=network["vlan"])
    assert parts.powers["memory"].state(Bmc("bmc-n1", "u", "secret")) is PowerState.ON
    assert left(api) == NOTHING | {
        "disks": 1,
        "seeds": 1,
        "exports": 1,
        "target_servers": 1,
        "ports_in_use": 1,
    }
    assert Report.model_validate(api.get("/v1/doctor?quick=true").json()).errors == []


def test_the_export_lets_in_this_node_only_and_carries_disk_and_seed(
    api: TestClient, site: Any, parts: Parts
) -> None:
    site.ended(provision(api))
    (portal,) = parts.gateway.target.portals()
    (export,) = parts.gateway.target.exports(portal)
    assert export.initiator.endswith(f":node-{node(api)['id']}")
    assert [(lun.number, lun.readonly) for lun in export.luns] == [(1, False), (2, True)]


def test_deprovision_leaves_nothing(api: TestClient, site: Any, parts: Parts) -> None:
    site.ended(provision(api))
    operation = site.ended(api.post("/v1/nodes/n1/deprovision", json={}))

    assert operation["state"] == "succeeded", operation
    assert operation["steps"][0]["name"] == "power off"
    assert left(api) == NOTHING
    assert parts.switches["sw1"].port("port1").vlans == ISOLATED
    assert parts.powers["memory"].state(Bmc("bmc-n1", "u", "secret")) is PowerState.OFF
    found = node(api)
    assert (found["state"], found["project"], found["disk"]) == ("available", None, None)


def tamper(parts: Parts, name: str = "n1") -> None:
    """Do to a node's BMC what who has root on the node may do."""
    power, bmc = parts.powers["memory"], Bmc(f"bmc-{name}", "u", "secret")
    power.boot_from(bmc, BootDevice.DISK)
    cast("Any", power).insert(bmc, "http://192.0.2.1/mine.iso")


def is_reset(parts: Parts, name: str = "n1") -> bool:
    power, bmc = parts.powers["memory"], Bmc(f"bmc-{name}", "u", "secret")
    return power.boots_from(bmc) is None and not power.media(bmc)


@pytest.mark.parametrize("verb", ["deprovision", "reset"])
def test_what_its_user_left_in_the_bmc_goes_with_him(
    api: TestClient, site: Any, parts: Parts, verb: str
) -> None:
    site.ended(provision(api))
    tamper(parts)
    assert not is_reset(parts)
    operation = site.ended(api.post(f"/v1/nodes/n1/{verb}", json={}))
    assert operation["state"] == "succeeded", operation
    assert is_reset(parts)


def test_a_free_node_is_reset_too(api: TestClient, site: Any, parts: Parts) -> None:
    tamper(parts)
    site.ended(api.post("/v1/nodes/n1/reset", json={}))
    assert is_reset(parts)


def test_a_bmc_that_does_not_reset_keeps_the_node_and_nothing_else(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ended(provision(api))
    tamper(parts)
    with monkeypatch.context() as broken:
        broken.setattr(parts.powers["memory"], "reset_boot", refuse)
        failed = site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert failed["ending"] == "standing"
    assert (node(api)["state"], "its drive is stuck" in node(api)["problem"]) == ("failed", True)
    assert left(api) == NOTHING
    assert parts.switches["sw1"].port("port1").vlans == ISOLATED
    assert site.ended(api.post(f"/v1/operations/{failed['id']}/retry"))["state"] == "succeeded"
    assert (node(api)["state"], is_reset(parts)) == ("available", True)


def refuse(*_: object) -> None:
    raise BmcRefused("its drive is stuck", next_step="reset the BMC")


def test_no_two_boot_records_have_a_secret_or_a_token_in_common(
    api: TestClient, site: Any, parts: Parts
) -> None:
    seen: list[str] = []
    for name in ("n1", "n2", "n1", "n1"):
        site.ended(provision(api, name))
        with parts.db.read() as session:
            record = session.query(Boot).one()
            seen += [parts.vault.open(record.chap_secret), boot_token(parts, record.id)]
        site.ended(api.post(f"/v1/nodes/{name}/deprovision", json={}))
        with parts.db.read() as session:
            assert session.query(Boot).count() == 0
    assert len(set(seen)) == 8


def test_a_kept_disk_boots_another_node(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    disk = node(api)["disk"]
    site.ended(api.post("/v1/nodes/n1/deprovision", json={"keep_disk": True}))
    operation = site.ended(provision(api, "n2", image=None, disk=disk))
    assert operation["state"] == "succeeded", operation
    assert node(api, "n2")["disk"] == disk


def test_two_nodes_boot_from_one_image_at_once(api: TestClient, site: Any) -> None:
    answers = [provision(api, "n1"), provision(api, "n2")]
    assert [site.ended(answer)["state"] for answer in answers] == ["succeeded", "succeeded"]
    assert node(api, "n1")["address"] != node(api, "n2")["address"]


@pytest.mark.parametrize(
    ("path", "more", "status", "words"),
    [
        ("n9", {}, 404, "there is no node n9"),
        ("n1", {"image": "nosuch"}, 404, "there is no image nosuch"),
        ("n1", {"network": "nosuch"}, 404, "there is no network nosuch"),
        ("n1", {"project": "nosuch"}, 404, "there is no project nosuch"),
        ("n1", {"image": None}, 400, "either from a new clone of an image or from a disk"),
        ("n1", {"ssh_keys": ["ssh-ed25519 AAAA\nroot::0:0"]}, 400, "SSH key"),
        ("n1", {"hostname": "not a name"}, 422, "hostname"),
        ("n1", {"colour": "blue"}, 422, "colour"),
    ],
)
def test_bad_requests_name_the_thing_and_change_nothing(
    api: TestClient, path: str, more: dict[str, Any], status: int, words: str
) -> None:
    answer = provision(api, path, **more)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert answer.json()["next_step"]
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING
    assert api.get("/v1/disks?project=red").json()["items"] == []


def test_a_node_in_use_is_refused_and_says_how_to_free_it(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    answer = provision(api)
    assert answer.status_code == 409
    assert "node n1 is in use" in answer.json()["detail"]
    assert "bmi node deprovision n1" in answer.json()["next_step"]


def test_an_unreachable_bmc_undoes_everything(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(bmc: Bmc) -> None:
        raise BmcUnreachable(f"BMC {bmc.address} does not answer", next_step="check its cable")

    monkeypatch.setattr(parts.powers["memory"], "on", unreachable)
    monkeypatch.setattr("bmi.provisioning.engine.FIRST_PAUSE", 0.01)
    operation = site.ended(provision(api))

    assert operation["state"] == "failed"
    assert operation["error"]["detail"] == "BMC bmc-n1 does not answer"
    assert operation["error"]["next_step"] == "check its cable"
    assert {step["state"] for step in operation["steps"][1:-1]} == {"undone"}
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING


def test_a_full_store_undoes_everything(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageFull("store /pool is full", next_step="remove disks")

    monkeypatch.setattr(parts.storage, "write_seed", full)
    operation = site.ended(provision(api))
    assert operation["error"]["code"] == "storage-full"
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING
    assert api.get("/v1/disks?project=red").json()["items"] == []


def test_a_failed_step_can_be_tried_again_at_once(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(parts.storage, "write_seed", lambda *_: (_ for _ in ()).throw(RuntimeError("bug")))
        assert site.ended(provision(api))["error"]["code"] == "internal"
    assert site.ended(provision(api))["state"] == "succeeded"


def test_a_silent_node_fails_with_a_diagnosis_and_stays_for_a_look(api: TestClient, site: Any) -> None:
    operation = site.ended(provision(api, until="up", deadline=0.2))

    assert operation["state"] == "failed"
    assert "no DHCP request from 52:54:00:00:00:01" in operation["error"]["detail"]
    assert "port port1 of switch sw1" in operation["error"]["next_step"]
    assert left(api)["exports"] == 1
    found = node(api)
    assert found["state"] == "failed"
    assert "no DHCP request" in found["problem"]
    assert site.ended(api.post("/v1/nodes/n1/deprovision", json={}))["state"] == "succeeded"
    assert left(api) == NOTHING


def test_cancelling_while_the_node_boots_undoes_everything(api: TestClient, site: Any, parts: Parts) -> None:
    answer = provision(api, until="up")
    power, bmc = parts.powers["memory"], Bmc("bmc-n1", "u", "secret")
    wait_until(lambda: power.state(bmc) is PowerState.ON, deadline=20, what="the node to run", next_step="-")
    tamper(parts)
    cancelled = api.post(f"{answer.headers['Location']}/cancel")
    assert cancelled.status_code == 202
    operation = site.ended(answer)
    assert operation["state"] == "cancelled", operation
    assert node(api)["state"] == "available"
    assert left(api) == NOTHING
    assert is_reset(parts)


def test_a_deprovision_cannot_be_cancelled(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    answer = api.post("/v1/nodes/n1/deprovision", json={})
    site.ended(answer)
    refused = api.post(f"{answer.headers['Location']}/cancel")
    assert refused.status_code == 409


def test_the_timeline_tells_what_happened(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    events = api.get("/v1/nodes/n1/events").json()["items"]
    messages = [event["message"] for event in events]
    assert messages[0] == "node.provision of node n1, asked for by admin"
    assert any("carries VLAN" in message for message in messages)
    assert events[-1]["kind"] == "operation.succeeded"


def test_no_answer_shows_a_secret(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    everything = [
        api.get(path).text
        for path in (
            "/v1/nodes",
            "/v1/nodes/n1",
            "/v1/nodes/n1/events",
            "/v1/operations",
            "/v1/disks?project=red",
            "/v1/tokens",
            "/v1/doctor",
        )
    ]
    assert not [text for text in everything if "secret" in text.replace("secret_key", "")]


def test_volumes_are_named_after_ids_only(api: TestClient, site: Any) -> None:
    site.ended(provision(api))
    kinds = {info.volume.kind for info in site.storage.volumes()}
    assert kinds == {Kind.IMAGE, Kind.DISK, Kind.SEED}
