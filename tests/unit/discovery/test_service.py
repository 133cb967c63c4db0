"""Machines report themselves, are listed, and become nodes; on memory drivers."""

from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi.boot.node_app import node_app
from bmi.db import now
from bmi.discovery import node_http, service
from bmi.discovery.models import Discovered
from bmi.nodes.models import NodeHardware
from bmi.parts import Parts
from bmi.settings import Settings
from tests.service import memory_settings
from tests.unit.discovery.reports import MAC, OTHER, frame, reported

HEARD = [("eth0", frame("sw1", "port7")), ("eth1", frame("sw1", "port8"))]
BMC = {"driver": "memory", "address": "bmc-n5", "username": "u", "password": "secret"}
NICS = [{"mac": MAC, "switch": "sw1", "port": "port7"}]


@pytest.fixture
def settings(database_url: str, tmp_path: Path) -> Settings:
    return memory_settings(
        tmp_path, database_url, discovery={"enabled": True, "pending": 3, "reports_per_minute": 6000}
    )


@pytest.fixture
def network(api: TestClient, site: Any) -> UUID:
    site.project("discovery")
    return UUID(site.network("discovery", "discovery")["id"])


def machine(parts: Parts, network: UUID, address: str = "10.64.0.130") -> TestClient:
    """What the network's node-facing service says to somebody at an address."""
    return TestClient(node_app(parts, network), client=(address, 1024), base_url="http://10.64.0.254:8080")


def report_path(client: TestClient) -> str:
    script = client.get("/discovery/script.ipxe").text
    (word,) = [word for word in script.split() if word.startswith("bmi.report=")]
    return "/" + word.split("/", 3)[3]


def tell(parts: Parts, network: UUID, body: bytes, address: str = "10.64.0.130") -> Any:
    client = machine(parts, network, address)
    return client.post(report_path(client), content=body)


def discovered(api: TestClient) -> list[Any]:
    found: list[Any] = api.get("/v1/discovered").json()["items"]
    return found


def enrol(api: TestClient, **request: Any) -> Any:
    return api.post(f"/v1/discovered/{MAC}/enrol", json={"name": "n5", "bmc": BMC} | request)


def test_a_machine_reports_and_is_listed(api: TestClient, parts: Parts, network: UUID) -> None:
    assert tell(parts, network, reported(heard=HEARD)).text == "welcome\n"
    (found,) = discovered(api)
    assert (found["mac"], found["address"], found["node"], found["reports"]) == (MAC, "10.64.0.130", None, 1)
    assert found["hardware"]["disks"][0]["size"] == 64 << 20
    shown = api.get(f"/v1/discovered/{found['id']}").json()
    assert shown["places"] == [*NICS, {"mac": OTHER, "switch": "sw1", "port": "port8"}]


def test_one_that_reports_again_is_the_same(api: TestClient, parts: Parts, network: UUID) -> None:
    tell(parts, network, reported())
    tell(parts, network, reported(heard=HEARD), "10.64.0.131")
    (found,) = discovered(api)
    assert (found["address"], found["reports"]) == ("10.64.0.131", 2)
    assert found["hardware"]["cards"][0]["neighbours"][0]["port"] == "port7"


def test_a_machine_becomes_a_node_with_what_it_told(api: TestClient, parts: Parts, network: UUID) -> None:
    tell(parts, network, reported(heard=HEARD))
    made = enrol(api)
    assert made.status_code == 201, made.text
    assert [(nic["mac"], nic["port"]) for nic in made.json()["nics"]] == [(MAC, "port7"), (OTHER, "port8")]
    assert made.json()["hardware"]["serial"] == "S-1"
    assert discovered(api) == []
    assert enrol(api).json()["code"] == "not-found"
    assert api.get("/v1/nodes/n5").json()["hardware"]["cpus"] == 2


def test_tenants_see_no_serial_numbers_and_no_cables(
    api: TestClient, site: Any, parts: Parts, network: UUID
) -> None:
    tell(parts, network, reported(heard=HEARD))
    enrol(api)
    site.project("red")
    token = api.post("/v1/tokens", json={"name": "t", "role": "viewer", "project": "red"}).json()["secret"]
    seen = api.get("/v1/nodes/n5", headers={"Authorization": f"Bearer {token}"}).json()
    assert (seen["hardware"]["cpus"], seen["bmc"]) == (2, None)
    text = str(seen)
    assert not any(secret in text for secret in ("S-1", "S45N", "scratch", "6ab2f0a6", "02:00:00:00:00:01"))
    assert api.get("/v1/discovered", headers={"Authorization": f"Bearer {token}"}).status_code == 403


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        (
            {"nics": [{"mac": MAC, "switch": "sw1", "port": "port9"}]},
            409,
            "but hears port port7 of switch sw1",
        ),
        ({"nics": [{"mac": "52:54:00:99:99:99", "switch": "sw1", "port": "port9"}]}, 400, "has no card"),
        ({"nics": [{"mac": OTHER, "switch": "sw1", "port": "port8"}]}, 400, "is not among the node's"),
        ({"bmc": {"driver": "memory"}}, 400, "did not tell the address of its management controller"),
        ({"bmc": {"driver": "none", "address": "x"}}, 500, "no power driver 'none'"),
    ],
)
def test_what_cannot_be_enrolled(
    api: TestClient, parts: Parts, network: UUID, request_: Any, status: int, words: str
) -> None:
    tell(parts, network, reported(heard=HEARD))
    answer = enrol(api, **request_)
    assert answer.status_code == status, answer.text
    assert words in answer.json()["detail"]
    assert len(discovered(api)) == 1
    assert api.get("/v1/nodes").json()["items"] == []


def test_without_a_neighbour_somebody_has_to_say_where_it_is(
    api: TestClient, parts: Parts, network: UUID
) -> None:
    tell(parts, network, reported(heard=[("eth0", frame("phone", "1"))]))
    refused = enrol(api).json()
    assert "nobody knows where card" in refused["detail"]
    assert "phone port 1" in refused["detail"]
    assert enrol(api, nics=NICS).status_code == 201


def test_two_cards_at_one_port_are_none(api: TestClient, parts: Parts, network: UUID) -> None:
    tell(parts, network, reported(heard=[("eth0", frame("sw1", "port7")), ("eth1", frame("sw1", "port7"))]))
    assert enrol(api).json()["code"] == "miscabled"


def test_the_controllers_address_may_come_from_the_machine(
    api: TestClient, parts: Parts, network: UUID
) -> None:
    tell(parts, network, reported(heard=HEARD) + b"bmc\t10.9.9.9\n")
    assert enrol(api, bmc={"driver": "memory"}).json()["bmc"]["address"] == "10.9.9.9"


@pytest.mark.parametrize("many", [False, True])
def test_registering_by_hand_takes_what_was_told_and_minds_the_cables(
    api: TestClient, parts: Parts, network: UUID, *, many: bool
) -> None:
    tell(parts, network, reported(heard=HEARD))

    def register(port: str) -> Any:
        body = {"name": "n5", "bmc": BMC, "nics": [{"mac": MAC, "switch": "sw1", "port": port}]}
        if not many:
            return api.post("/v1/nodes", json=body).json().get("code")
        (verdict,) = api.post("/v1/nodes/batch", json={"nodes": [body]}).json()["verdicts"]
        return verdict["faults"][0]["code"] if verdict["faults"] else None

    assert register("port9") == "miscabled"
    assert register("port7") is None
    assert api.get("/v1/nodes/n5").json()["hardware"]["vendor"] == "QEMU"
    assert discovered(api) == []


def test_a_node_that_reports_is_named_and_not_changed(api: TestClient, parts: Parts, network: UUID) -> None:
    api.post("/v1/nodes", json={"name": "n5", "bmc": BMC, "nics": NICS})
    tell(parts, network, reported(heard=[("eth0", frame("sw1", "port9"))]))
    (found,) = discovered(api)
    assert found["node"] == "n5"
    assert api.get("/v1/nodes/n5").json()["hardware"] is None
    assert enrol(api).json()["code"] == "already-exists"
    findings = api.get("/v1/doctor", params={"quick": True}).json()["findings"]
    (wrong,) = [found for found in findings if found["code"] == "cable-differs"]
    assert (wrong["thing"], "hears port port9" in wrong["message"]) == ("node n5", True)
    assert api.delete(f"/v1/discovered/{MAC}").status_code == 204
    assert api.delete(f"/v1/discovered/{MAC}").status_code == 404


def test_a_flood_of_cards_keeps_the_last_ones(api: TestClient, parts: Parts, network: UUID) -> None:
    for number in range(8):
        mac = f"02:00:00:00:00:{number:02x}"
        body = reported(boot=mac).replace(OTHER.encode(), mac.encode())
        assert tell(parts, network, body, f"10.64.0.{number + 1}").status_code == 200
    assert [found["mac"][-2:] for found in discovered(api)] == ["05", "06", "07"]


def test_machines_not_heard_of_for_long_are_forgotten(api: TestClient, parts: Parts, network: UUID) -> None:
    tell(parts, network, reported())
    service.sweep(parts)
    assert len(discovered(api)) == 1
    with parts.db.write() as session:
        session.scalars(select(Discovered)).one().seen_at = now() - timedelta(days=31)
    service.sweep(parts)
    assert discovered(api) == []


def test_a_removed_node_takes_its_hardware_along(api: TestClient, parts: Parts, network: UUID) -> None:
    tell(parts, network, reported(heard=HEARD))
    enrol(api)
    api.delete("/v1/nodes/n5")
    with parts.db.read() as session:
        assert session.scalar(select(NodeHardware.id)) is None


# --- over HTTP ---------------------------------------------------------------------------------------------


def test_the_script_leads_to_the_inspection_system(parts: Parts, network: UUID) -> None:
    client = machine(parts, network)
    script = client.get("/discovery/script.ipxe").text
    assert script.startswith("#!ipxe\n")
    assert "bmi.boot=${netX/mac}" in script
    assert client.get("/discovery/vmlinuz").status_code == 404  # not built yet
    folder = parts.settings.inspector
    folder.mkdir(parents=True)
    for name in ("vmlinuz", "initrd.img"):
        (folder / name).write_bytes(name.encode() * 1000)
        assert client.get(f"/discovery/{name}").content == name.encode() * 1000


def test_other_networks_have_none_of_it(parts: Parts, site: Any, network: UUID) -> None:
    site.project("red")
    other = UUID(site.network("net", "red")["id"])
    client = machine(parts, other)
    assert client.get("/discovery/script.ipxe").status_code == 404
    assert client.get("/discovery/vmlinuz").status_code == 404
    assert client.post(report_path(machine(parts, network)), content=reported()).status_code == 404


def test_a_report_needs_the_token_of_its_address_and_time(
    api: TestClient, parts: Parts, network: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = report_path(machine(parts, network))
    _, _, issued, token, _ = path.split("/")
    elsewhere = machine(parts, network, "10.64.0.131")
    assert elsewhere.post(path, content=reported()).status_code == 404
    here = machine(parts, network)
    for wrong in (
        f"/discovery/{issued}/{'0' * 64}/report",
        f"/discovery/{int(issued) - 1}/{token}/report",
        "/discovery/x/y/report",
    ):
        assert here.post(wrong, content=reported()).status_code == 404
    monkeypatch.setattr(node_http, "_SESSION", 0.0)
    assert here.post(path, content=reported()).status_code == 404
    assert discovered(api) == []


def test_what_is_no_report_is_refused(api: TestClient, parts: Parts, network: UUID) -> None:
    assert tell(parts, network, b"hello").status_code == 400
    assert discovered(api) == []


def test_reports_come_at_a_pace() -> None:
    pace = node_http.Pace(6)
    assert [pace.take(f"10.0.0.{number}", 100.0) for number in range(8)] == [True] * 6 + [False] * 2
    assert not pace.take("10.0.0.0", 104.0)
    assert pace.take("10.0.0.9", 111.0)
    assert not pace.take("10.0.0.9", 114.0)  # one address is not taken twice within five seconds
    assert pace.take("10.0.0.9", 1000.0)


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    assert not memory_settings(tmp_path, None).discovery.enabled
