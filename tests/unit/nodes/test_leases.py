"""Leases, on memory drivers: nodes that the site's inventory gives to projects, and takes away."""

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from bmi.drivers.power import Bmc, PowerState
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.nodes import leases
from bmi.parts import Parts
from bmi.provisioning.converge import converge
from bmi.settings import Cleaning, InventorySettings, Settings
from tests.service import memory_settings

CARDS = {"n1": "52:54:00:00:00:01", "n2": "52:54:00:00:00:02"}
PORTS = [f"{name}/nic{number}" for name in ("n1", "n2", "n3", "n4") for number in (1, 2)]


@pytest.fixture
def settings(database_url: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Settings:
    # What the inventory says counts at once: the clock is no part of these tests.
    monkeypatch.setattr(leases, "FRESH", 0.0)
    return memory_settings(
        tmp_path,
        database_url,
        switches={"sw1": {"driver": "memory", "options": {"ports": PORTS}}},
        inventory=InventorySettings(
            driver="memory", projects={"red": "red-hil"}, switch="sw1", power="memory"
        ),
    )


@pytest.fixture
def inventory(parts: Parts) -> Any:
    assert parts.leases is not None
    return parts.leases.inventory


@pytest.fixture(autouse=True)
def red(site: Any, inventory: Any) -> None:
    """Two projects with a network each; two nodes that the inventory gives to the first."""
    for project in ("red", "blue"):
        site.project(project)
        site.network("net", project)
    site.image("golden")
    for name, mac in CARDS.items():
        inventory.give(name, "red-hil", {"nic1": mac})


def take_over(api: TestClient, project: str = "red", **more: Any) -> dict[str, tuple[str, str]]:
    """Import all pages, and return what is said of each node."""
    found: dict[str, tuple[str, str]] = {}
    cursor = None
    while True:
        body = {"project": project, "cursor": cursor, **more}
        answer = api.post("/v1/nodes/import", json=body)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        found |= {one["node"]: (one["difference"], one["detail"]) for one in page["items"]}
        cursor = page["next"]
        if cursor is None:
            return found


def node(api: TestClient, name: str = "n1") -> dict[str, Any]:
    return cast("dict[str, Any]", api.get(f"/v1/nodes/{name}").json())


def provision(api: TestClient, name: str = "n1", project: str = "red") -> Any:
    body = {"image": "golden", "network": "net", "project": project, "until": "power"}
    return api.post(f"/v1/nodes/{name}/provision", json=body)


def codes(api: TestClient) -> list[str]:
    return [one["code"] for one in api.get("/v1/doctor?quick=true").json()["findings"]]


def kinds(api: TestClient, name: str = "n1") -> list[str]:
    return [one["kind"] for one in api.get(f"/v1/nodes/{name}/events").json()["items"]]


# --- import ------------------------------------------------------------------------------------------------


def test_nodes_are_taken_over_once(api: TestClient) -> None:
    assert {name: what for name, (what, _) in take_over(api).items()} == {"n1": "new", "n2": "new"}
    found = node(api)
    assert found["bmc"] == {"driver": "memory", "address": "n1", "username": "", "options": {}}
    assert found["nics"] == [{"mac": CARDS["n1"], "switch": "sw1", "port": "n1/nic1"}]
    assert found["lease"] == "held"
    assert {what for what, _ in take_over(api).values()} == {"unchanged"}


def test_a_dry_run_writes_nothing(api: TestClient) -> None:
    assert {what for what, _ in take_over(api, dry_run=True).values()} == {"new"}
    assert api.get("/v1/nodes").json()["items"] == []


def test_a_page_is_as_long_as_is_asked_and_none_is_left_out(api: TestClient, inventory: Any) -> None:
    for number in range(3, 8):
        inventory.give(f"n{number}", "red-hil", {"nic1": f"52:54:00:00:00:0{number}"})
    first = api.post("/v1/nodes/import", json={"project": "red", "limit": 3}).json()
    assert [one["node"] for one in first["items"]] == ["n1", "n2", "n3"]
    assert first["next"] == "n3"
    assert len(take_over(api, limit=3)) == 7


def test_what_changed_there_changes_here_while_the_node_is_free(
    api: TestClient, site: Any, inventory: Any
) -> None:
    take_over(api)
    inventory.give("n1", "red-hil", {"nic2": "52:54:00:00:00:09", "nic1": CARDS["n1"]})
    assert take_over(api)["n1"][0] == "changed"
    assert [nic["port"] for nic in node(api)["nics"]] == ["n1/nic2", "n1/nic1"]
    site.ended(provision(api))
    inventory.give("n1", "red-hil", {"nic1": CARDS["n1"]})
    what, detail = take_over(api)["n1"]
    assert what == "refused"
    assert "bmi node deprovision n1" in detail
    assert len(node(api)["nics"]) == 2


def test_cards_that_were_swapped_are_taken_over(api: TestClient, inventory: Any) -> None:
    inventory.give("n1", "red-hil", {"nic1": CARDS["n1"], "nic2": "52:54:00:00:00:09"})
    take_over(api)
    inventory.give("n1", "red-hil", {"nic1": "52:54:00:00:00:09", "nic2": CARDS["n1"]})
    assert take_over(api)["n1"][0] == "changed"
    assert [nic["mac"] for nic in node(api)["nics"]] == ["52:54:00:00:00:09", CARDS["n1"]]


def test_what_is_gone_is_said_and_stays(api: TestClient, inventory: Any) -> None:
    take_over(api)
    inventory.give("n1", None)
    inventory.forget("n2")
    found = take_over(api)
    assert {name: what for name, (what, _) in found.items()} == {"n1": "gone", "n2": "gone"}
    assert "bmi node delete n1" in found["n1"][1]
    assert node(api)["state"] == "available"


def test_a_node_that_moved_to_another_project_follows(api: TestClient, inventory: Any) -> None:
    take_over(api)
    inventory.give("n1", "blue")
    assert take_over(api, "blue")["n1"][0] == "changed"
    assert set(take_over(api, "red")) == {"n2"}
    assert node(api)["lease"] == "held"


def test_a_node_registered_by_hand_is_adopted_only_if_it_is_the_same(api: TestClient, inventory: Any) -> None:
    for number, name in enumerate(CARDS, start=1):
        bmc = {"driver": "memory", "address": f"other-{name}"}
        mac = CARDS[name] if name == "n1" else "52:54:00:00:00:77"
        nics = [{"mac": mac, "switch": "sw1", "port": f"n{number}/nic1"}]
        assert api.post("/v1/nodes", json={"name": name, "bmc": bmc, "nics": nics}).status_code == 201
    found = take_over(api)
    assert found["n1"][0] == "changed"
    assert found["n2"][0] == "refused"
    assert node(api)["lease"] == "held"
    assert node(api, "n2")["lease"] is None


@pytest.mark.parametrize(
    ("name", "nics", "why"),
    [
        ("No Name/1", {"nic1": "52:54:00:00:00:10"}, "its name"),
        ("n3", {"nic1": "not a mac"}, "no network card with a MAC address"),
        ("n3", {}, "no network card with a MAC address"),
        ("n3", {f"nic{n}": f"52:54:00:00:01:{n:02x}" for n in range(17)}, "17 network cards"),
        ("n3", {"nic1": "52:54:00:00:00:10", "nic2": "5254.0000.0010"}, "the same MAC"),
        ("n3", {"nic1": "52:54:00:00:00:01"}, "belongs to node n1"),
    ],
)
def test_what_cannot_be_taken_over_is_refused_with_the_reason(
    api: TestClient, inventory: Any, name: str, nics: dict[str, str], why: str
) -> None:
    inventory.give(name, "red-hil", nics)
    found = take_over(api)
    assert found[name][0] == "refused"
    assert why in found[name][1]
    assert found["n2"][0] == "new"


def test_odd_macs_are_read_and_what_is_none_is_left_out(api: TestClient, inventory: Any) -> None:
    inventory.give("N3", "red-hil", {"nic1": "none yet\x1b[2J", "nic2": "52-54-00-AB-CD-EF"})
    what, detail = take_over(api)["N3"]
    assert what == "new"
    assert "nic1 is left out" in detail
    assert "\x1b" not in detail
    assert node(api, "n3")["nics"] == [{"mac": "52:54:00:ab:cd:ef", "switch": "sw1", "port": "N3/nic2"}]


def test_without_an_inventory_or_when_it_is_away_import_says_so(
    api: TestClient, parts: Parts, inventory: Any
) -> None:
    inventory.be_away()
    answer = api.post("/v1/nodes/import", json={"project": "red"})
    assert (answer.status_code, answer.json()["code"]) == (503, "inventory-unavailable")
    parts.leases = None
    answer = api.post("/v1/nodes/import", json={"project": "red"})
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong-state")


# --- who may boot what -------------------------------------------------------------------------------------


def test_a_project_boots_what_the_inventory_gives_to_it(api: TestClient, site: Any, parts: Parts) -> None:
    take_over(api)
    assert site.ended(provision(api))["state"] == "succeeded"
    assert parts.switches["sw1"].port("n1/nic1").vlans != ISOLATED


def test_another_project_s_node_is_refused_at_once(api: TestClient) -> None:
    take_over(api)
    answer = provision(api, project="blue")
    assert (answer.status_code, answer.json()["code"]) == (409, "not-leased")
    assert "hil project node add blue n1" in answer.json()["next_step"]
    assert node(api)["state"] == "available"


def test_another_project_s_node_is_not_allocated_either(api: TestClient) -> None:
    take_over(api)
    answer = api.post("/v1/nodes/n1/allocate", json={"project": "blue"})
    assert (answer.status_code, answer.json()["code"]) == (409, "not-leased")
    assert node(api)["state"] == "available"
    assert api.post("/v1/nodes/n1/allocate", json={"project": "red"}).json()["allocated"]


def test_a_lost_node_joins_no_network(api: TestClient, site: Any, inventory: Any) -> None:
    take_over(api)
    site.network("data", "red")
    site.ended(provision(api))
    inventory.give("n1", "green")
    operation = site.ended(api.post("/v1/nodes/n1/attach", json={"network": "data", "tagged": True}))
    assert operation["error"]["code"] == "not-leased"
    assert [there["network"] for there in node(api)["attachments"]] == ["net"]


def test_the_workflow_asks_again_before_it_touches_the_network(
    api: TestClient, site: Any, parts: Parts, inventory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over(api)
    before = boots_seed(monkeypatch, lambda: inventory.give("n1", "green"))
    operation = site.ended(provision(api))
    assert before == ["called"]
    assert operation["state"] == "failed"
    assert operation["error"]["code"] == "not-leased"
    assert parts.switches["sw1"].port("n1/nic1").vlans == ISOLATED
    assert node(api)["state"] == "available"


def boots_seed(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> list[str]:
    """Let something happen in the middle of a provision, after it was accepted."""
    from bmi.provisioning import boots

    called: list[str] = []
    original = boots.write_seed

    def write_seed(parts: Parts, id: Any) -> str:
        called.append("called")
        do()
        return original(parts, id)

    monkeypatch.setattr(boots, "write_seed", write_seed)
    return called


def test_an_inventory_that_is_away_is_waited_for(
    api: TestClient, site: Any, inventory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over(api)
    inventory.be_away()
    assert node(api)["lease"] == "unknown"
    answer = provision(api)
    assert answer.status_code == 202
    running = api.get(answer.headers["Location"]).json()
    assert running["ended_at"] is None
    inventory.be_away(False)
    assert site.ended(answer)["state"] == "succeeded"


def test_a_disk_does_not_move_to_a_node_of_another_project(
    api: TestClient, site: Any, parts: Parts, inventory: Any
) -> None:
    take_over(api)
    site.ended(provision(api))
    disk = node(api)["disk"]
    inventory.give("n2", "green")
    operation = site.ended(api.post(f"/v1/disks/{disk}/move?project=red", json={"to": "n2"}))
    assert operation["error"]["code"] == "not-leased"
    assert (node(api)["state"], node(api, "n2")["state"]) == ("active", "available")
    assert parts.powers["memory"].state(Bmc("n1", "", "")) is PowerState.ON


# --- leases that end ---------------------------------------------------------------------------------------


def test_a_lease_that_ended_is_shown_at_once_and_written_down(
    api: TestClient, site: Any, parts: Parts, inventory: Any
) -> None:
    take_over(api)
    site.ended(provision(api))
    assert codes(api) == []
    inventory.give("n1", "green")
    found = node(api)
    assert found["lease"] == "ended"
    assert "bmi node deprovision n1" in found["problem"]
    assert codes(api) == ["lease-ended"]
    converge(parts)
    converge(parts)
    assert kinds(api).count("lease.ended") == 1
    assert [one["lease"] for one in api.get("/v1/nodes").json()["items"] if one["name"] == "n1"] == ["ended"]
    inventory.give("n1", "red-hil")
    converge(parts)
    assert kinds(api)[-1] == "lease.back"
    assert (node(api)["lease"], node(api)["problem"]) == ("held", None)


def test_neither_power_nor_ports_of_a_lost_node_are_touched(
    api: TestClient, site: Any, parts: Parts, inventory: Any
) -> None:
    take_over(api)
    site.ended(provision(api))
    inventory.give("n1", "green")
    theirs = PortVlans(native=3000)  # as the new owner has it
    parts.switches["sw1"].configure("n1/nic1", theirs)
    refused = site.ended(api.post("/v1/nodes/n1/power", json={"action": "off"}))
    assert refused["error"]["code"] == "not-leased"
    operation = site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert operation["state"] == "succeeded", operation
    assert "left alone" in operation["steps"][0]["detail"]
    converge(parts)
    assert parts.switches["sw1"].port("n1/nic1").vlans == theirs
    assert parts.powers["memory"].state(Bmc("n1", "", "")) is PowerState.ON
    found = node(api)
    assert (found["state"], found["disk"], found["problem"]) == ("available", None, None)
    assert codes(api) == []
    assert list(parts.gateway.target.portals()) == []
    assert api.delete("/v1/nodes/n1").status_code == 204


def test_a_lost_node_is_not_cleaned_until_it_is_back(
    api: TestClient, site: Any, parts: Parts, inventory: Any
) -> None:
    parts.settings = parts.settings.model_copy(
        update={"cleaning": Cleaning(image="golden", project="red", network="net")}
    )
    take_over(api)
    site.ended(provision(api))
    inventory.give("n1", "green")
    assert site.ended(api.post("/v1/nodes/n1/deprovision", json={}))["state"] == "succeeded"
    converge(parts)
    found = node(api)
    assert found["state"] == "cleaning"
    assert "bmi node reset n1 --assume-clean" in found["problem"]
    inventory.give("n1", "red-hil")
    converge(parts)
    assert node(api)["operation"] is not None


def test_deprovision_waits_for_an_inventory_that_is_away(api: TestClient, site: Any, inventory: Any) -> None:
    take_over(api)
    site.ended(provision(api))
    inventory.be_away()
    answer = api.post("/v1/nodes/n1/deprovision", json={})
    assert api.get(answer.headers["Location"]).json()["ended_at"] is None
    inventory.be_away(False)
    assert site.ended(answer)["state"] == "succeeded"


def test_nodes_that_were_not_imported_are_not_the_inventory_s(
    api: TestClient, site: Any, inventory: Any
) -> None:
    inventory.be_away()
    nics = [{"mac": "52:54:00:00:00:55", "switch": "sw1", "port": "n4/nic1"}]
    bmc = {"driver": "memory", "address": "n4"}
    assert api.post("/v1/nodes", json={"name": "n4", "bmc": bmc, "nics": nics}).status_code == 201
    assert site.ended(provision(api, "n4"))["state"] == "succeeded"
    assert node(api, "n4")["lease"] is None
    assert site.ended(api.post("/v1/nodes/n4/deprovision", json={}))["state"] == "succeeded"


def test_who_only_looks_does_not_wait_for_an_inventory_that_hangs(
    api: TestClient, inventory: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_over(api)
    asked, let_go = [], threading.Event()

    def hang(project: str) -> Any:
        asked.append(project)
        let_go.wait(60)
        return ["n1", "n2"]

    monkeypatch.setattr(leases, "GLANCE", 0.05)
    monkeypatch.setattr(inventory, "nodes", hang)
    assert [node(api)["lease"] for _ in range(20)] == ["unknown"] * 20
    assert asked == ["red-hil"]
    let_go.set()
    monkeypatch.setattr(leases, "_SILENT", 0.0)
    monkeypatch.setattr(leases, "GLANCE", 30.0)
    assert node(api)["lease"] == "held"
