"""Nodes are taken into the inventory, many at once, and changed: all or none, and once is as good as twice."""

import threading
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi.api.inventory import NodeBatch
from bmi.drivers.power import Bmc, PowerState
from bmi.errors import SwitchError
from bmi.nodes import inventory
from bmi.nodes.models import Nic, Node
from bmi.parts import Parts


def entry(name: str, *ports: int, **bmc: Any) -> dict[str, Any]:
    return {
        "name": name,
        "bmc": {"driver": "memory", "address": f"bmc-{name}", "username": "u", "password": "secret"} | bmc,
        "nics": [{"mac": f"52:54:00:00:00:{n:02x}", "switch": "sw1", "port": f"port{n}"} for n in ports],
    }


def take_in(api: TestClient, *entries: dict[str, Any], **how: Any) -> Any:
    answer = api.post("/v1/nodes/batch", json={"nodes": list(entries), **how})
    assert answer.status_code == 200, answer.text
    return answer.json()


def outcomes(answer: Any) -> list[str]:
    return [verdict["outcome"] for verdict in answer["verdicts"]]


def faults(answer: Any) -> list[str]:
    return [fault["message"] for verdict in answer["verdicts"] for fault in verdict["faults"]]


def names(api: TestClient) -> list[str]:
    return [node["name"] for node in api.get("/v1/nodes").json()["items"]]


def password(parts: Parts, name: str) -> str:
    with parts.db.read() as session:
        return parts.vault.open(session.scalars(select(Node.bmc_password).where(Node.name == name)).one())


def test_many_at_once_and_the_same_again_changes_nothing(api: TestClient) -> None:
    rack = [entry("n1", 1, 2), entry("n2", 3)]
    first = take_in(api, *rack)
    assert (first["applied"], outcomes(first)) == (True, ["new", "new"])
    before = api.get("/v1/nodes").json()
    again = take_in(api, *rack)
    assert (again["applied"], outcomes(again)) == (True, ["unchanged", "unchanged"])
    assert api.get("/v1/nodes").json() == before
    assert [nic["port"] for nic in before["items"][0]["nics"]] == ["port1", "port2"]


def test_a_dry_run_says_what_would_become_and_writes_nothing(api: TestClient) -> None:
    answer = take_in(api, entry("n1", 1), dry_run=True)
    assert (answer["applied"], outcomes(answer)) == (False, ["new"])
    assert names(api) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (entry("n1", 9), "n1 is named twice"),
        (entry("n9", 1, address="b"), "MAC 52:54:00:00:00:01 belongs to node n1"),
        (entry("n9", 9, address="bmc-n1"), "the management controller bmc-n1 (memory) belongs to node n1"),
        (entry("n9", 9, driver="none"), "there is no power driver 'none'"),
        (entry("n9", 99), "switch sw1 has no port port99"),
        (entry("n9", 9, 9), "node n9 names MAC 52:54:00:00:00:09 twice"),
        (entry("old", 9), "node old is there already, and differs: nics"),
        (entry("n9", 30), "port port30 of switch sw1 belongs to node old"),
        (
            entry("n9") | {"nics": [{"mac": "52:54:00:00:00:09", "switch": "tor", "port": "1"}]},
            "there is no switch 'tor' in the settings",
        ),
    ],
)
def test_one_fault_and_none_is_taken(api: TestClient, wrong: dict[str, Any], words: str) -> None:
    take_in(api, entry("old", 30))
    answer = take_in(api, entry("n1", 1), wrong)
    assert answer["applied"] is False
    assert any(words in fault for fault in faults(answer)), faults(answer)
    assert names(api) == ["old"]
    kept = take_in(api, entry("n1", 1), wrong, keep_going=True)
    assert (kept["applied"], outcomes(kept)) == (True, ["new", "refused"])
    assert names(api) == ["old", "n1"]


def test_every_fault_is_told_at_once_and_which_other_entry_it_has_to_do_with(api: TestClient) -> None:
    answer = take_in(api, entry("n1", 1), entry("n2", 1, 98), entry("n3", 99, driver="x"))
    assert [len(verdict["faults"]) for verdict in answer["verdicts"]] == [0, 3, 2]
    assert {fault["other"] for fault in answer["verdicts"][1]["faults"]} == {None, 0}


def test_what_differs_is_changed_only_if_asked(api: TestClient, parts: Parts) -> None:
    take_in(api, entry("n1", 1), entry("n2", 2))
    other = entry("n1", 1, address="elsewhere", username="admin")
    assert outcomes(take_in(api, other)) == ["refused"]
    answer = take_in(api, other, entry("n2", 2), update=True)
    assert outcomes(answer) == ["changed", "unchanged"]
    assert answer["verdicts"][0]["changes"] == ["bmc address", "bmc username"]
    assert api.get("/v1/nodes/n1").json()["bmc"]["address"] == "elsewhere"
    assert password(parts, "n1") == "secret"


def test_a_password_that_is_left_out_stays(api: TestClient, parts: Parts) -> None:
    take_in(api, entry("n1", 1))
    without = entry("n1", 1)
    del without["bmc"]["password"]
    assert outcomes(take_in(api, without)) == ["unchanged"]
    assert outcomes(take_in(api, entry("n1", 1, password="new"), update=True)) == ["changed"]
    assert password(parts, "n1") == "new"


def test_two_nodes_swap_their_cables(api: TestClient) -> None:
    take_in(api, entry("n1", 1), entry("n2", 2))
    swapped = [entry("n1", 2), entry("n2", 1)]
    assert outcomes(take_in(api, *swapped, update=True)) == ["changed", "changed"]
    assert api.get("/v1/nodes/n1").json()["nics"][0]["port"] == "port2"
    half = take_in(api, entry("n1", 1), update=True)
    assert faults(half)[0] == "MAC 52:54:00:00:00:01 belongs to node n2"


def test_who_is_refused_keeps_what_others_want(api: TestClient) -> None:
    take_in(api, entry("n1", 1), entry("n2", 2), entry("n3", 3))
    # n2 wants what n3 keeps, so n2 stays as it is, and n1 cannot have what n2 has.
    answer = take_in(api, entry("n1", 2), entry("n2", 3), update=True, keep_going=True)
    assert outcomes(answer) == ["refused", "refused"]
    assert [api.get(f"/v1/nodes/n{n}").json()["nics"][0]["port"] for n in (1, 2)] == ["port1", "port2"]


def test_cards_of_a_node_in_use_stay(api: TestClient, site: Any) -> None:
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    take_in(api, entry("n1", 1))
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    answer = take_in(api, entry("n1", 2), update=True)
    assert faults(answer) == ["node n1 is active: its network cards stay"]
    assert outcomes(take_in(api, entry("n1", 1, username="admin"), update=True)) == ["changed"]


def test_controllers_that_do_not_answer_are_refused_if_asked(
    api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Bmc] = []

    def state(bmc: Bmc) -> PowerState:
        asked.append(bmc)
        if bmc.address == "bmc-n2":
            raise SwitchError("nobody there", next_step="look")
        return PowerState.OFF

    monkeypatch.setattr(parts.powers["memory"], "state", state)
    answer = take_in(api, entry("n1", 1), entry("n2", 2), check_bmc=True)
    assert (outcomes(answer), faults(answer)) == (["new", "refused"], ["nobody there"])
    assert {(bmc.address, bmc.password) for bmc in asked} == {("bmc-n1", "secret"), ("bmc-n2", "secret")}


def test_a_controller_that_hangs_does_not_hold_up_the_others(
    api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = threading.Event()

    def state(bmc: Bmc) -> PowerState:
        if bmc.address == "bmc-n2":
            held.wait(30)
        return PowerState.OFF

    monkeypatch.setattr(parts.powers["memory"], "state", state)
    monkeypatch.setattr(inventory, "_DEADLINE", 0.2)
    answer = take_in(api, entry("n1", 1), entry("n2", 2), check_bmc=True, dry_run=True)
    held.set()
    assert outcomes(answer) == ["new", "refused"]
    assert "did not answer within" in faults(answer)[0]


def test_a_switch_that_cannot_be_asked_is_a_fault_of_its_nodes(
    api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ports() -> Any:
        raise SwitchError("it is off", next_step="switch it on")

    monkeypatch.setattr(parts.switches["sw1"], "ports", ports)
    assert faults(take_in(api, entry("n1", 1))) == ["it is off"]


def test_nodes_in_one_request_are_bounded(api: TestClient) -> None:
    with pytest.raises(ValueError, match="at most 1000"):
        NodeBatch.model_validate({"nodes": [entry(f"n{number}", 1) for number in range(1001)]})
    assert api.post("/v1/nodes/batch", json={"nodes": []}).status_code == 422


def test_a_node_is_changed(api: TestClient, parts: Parts) -> None:
    take_in(api, entry("n1", 1), entry("n2", 2))
    changes = {
        "name": "web1",
        "bmc": {"address": "moved", "password": "new"},
        "nics": entry("x", 5, 6)["nics"],
    }
    changed = api.patch("/v1/nodes/n1", json=changes)
    assert changed.status_code == 200, changed.text
    found = api.get("/v1/nodes/web1").json()
    assert (found["bmc"]["address"], found["bmc"]["username"]) == ("moved", "u")
    assert [nic["port"] for nic in found["nics"]] == ["port5", "port6"]
    assert password(parts, "web1") == "new"
    assert api.patch("/v1/nodes/web1", json={"bmc": {"username": "admin"}}).json()["name"] == "web1"
    assert password(parts, "web1") == "new"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"name": "n2"}, 409, "already-exists"),
        ({"name": None}, 400, "bad-request"),
        ({"bmc": {"address": None}}, 400, "bad-request"),
        ({"bmc": {"driver": "none"}}, 500, "settings-invalid"),
        ({"bmc": {"address": "bmc-n2"}}, 409, "already-exists"),
        ({"nics": []}, 422, "bad-request"),
        ({"nics": entry("x", 2)["nics"]}, 409, "already-exists"),
        ({"nics": entry("x", 99)["nics"]}, 400, "switch-port-unknown"),
    ],
)
def test_a_change_that_cannot_be(api: TestClient, change: dict[str, Any], status: int, code: str) -> None:
    take_in(api, entry("n1", 1), entry("n2", 2))
    before = api.get("/v1/nodes").json()
    answer = api.patch("/v1/nodes/n1", json=change)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert api.get("/v1/nodes").json() == before


def test_cards_that_stay_keep_their_rows(api: TestClient, parts: Parts) -> None:
    take_in(api, entry("n1", 1))
    assert outcomes(take_in(api, entry("n1", 1, username="admin"), update=True)) == ["changed"]
    with parts.db.read() as session:
        before: UUID = session.scalars(select(Nic.id)).one()
    api.patch("/v1/nodes/n1", json={"name": "n7"})
    with parts.db.read() as session:
        assert session.scalars(select(Nic.id)).one() == before


def test_a_removed_node_leaves_nothing(api: TestClient, parts: Parts) -> None:
    take_in(api, entry("n1", 1))
    assert api.delete("/v1/nodes/n1").status_code == 204
    assert outcomes(take_in(api, entry("n1", 1))) == ["new"]
