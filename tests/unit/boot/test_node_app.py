"""What nodes are told over HTTP, and what is refused to everybody else."""

from typing import Any
from uuid import UUID

import pytest
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi.boot.models import Boot
from bmi.boot.node_app import node_app
from bmi.boot.service import boot_url
from bmi.boot.watch import diagnosis
from bmi.ids import new_id
from bmi.parts import Parts


@pytest.fixture
def record(api: TestClient, site: Any, parts: Parts) -> Boot:
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    site.node("n1", 1)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    with parts.db.read() as session:
        return session.scalars(select(Boot)).one()


def node(
    parts: Parts, record: Boot, *, network: UUID | None = None, address: str | None = None
) -> TestClient:
    """What the network's node-facing service says to somebody at an address."""
    app = node_app(parts, network or record.attachment.network_id)
    return TestClient(app, client=(address or record.attachment.address, 1024))


def path(parts: Parts, record: Boot, leaf: str = "script.ipxe") -> str:
    return "/boot/" + boot_url(parts, record, leaf).split("/boot/")[1]


def milestone(parts: Parts) -> str | None:
    with parts.db.read() as session:
        return session.scalars(select(Boot.milestone)).one()


def test_the_node_gets_its_script_with_its_secret(parts: Parts, record: Boot) -> None:
    answer = node(parts, record).get(path(parts, record))
    assert answer.text.startswith("#!ipxe")
    assert parts.vault.open(record.chap_secret) in answer.text
    assert str(record.disk_id) in answer.text
    assert milestone(parts) == "script"


def refusals(api: TestClient) -> list[str]:
    events = api.get("/v1/nodes/n1/events").json()["items"]
    return [event["message"] for event in events if event["kind"] == "boot.refused"]


def test_a_wrong_token_gets_nothing_and_is_an_event(api: TestClient, parts: Parts, record: Boot) -> None:
    good = path(parts, record)
    wrong = good.replace(good.split("/")[3], "0" * 64)
    assert node(parts, record).get(wrong).status_code == 404
    assert milestone(parts) == "power"
    (told,) = refusals(api)
    assert told.startswith("request for the boot script or report refused: its token is wrong; it came from ")
    assert wrong not in told
    assert good.split("/")[3] not in told


def test_a_flood_of_refusals_is_few_events(api: TestClient, parts: Parts, record: Boot) -> None:
    for number in (1, 1, *range(1, 40)):
        assert node(parts, record, address=f"10.64.1.{number}").get(path(parts, record)).status_code == 404
    told = refusals(api)
    assert len(told) == len(set(told)) == 20


def test_another_network_gets_nothing(parts: Parts, record: Boot) -> None:
    assert node(parts, record, network=new_id()).get(path(parts, record)).status_code == 404


def test_another_address_gets_nothing_and_is_an_event(api: TestClient, parts: Parts, record: Boot) -> None:
    assert node(parts, record, address="10.64.0.77").get(path(parts, record)).status_code == 404
    assert refusals(api) == ["request for the boot script or report refused: it came from 10.64.0.77"]


def test_once_the_node_is_given_back_its_token_is_worth_nothing(
    api: TestClient, site: Any, parts: Parts, record: Boot
) -> None:
    known = path(parts, record)
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert node(parts, record).get(known).status_code == 404


def test_the_report_that_it_is_up_counts_and_brings_the_host_keys(
    api: TestClient, parts: Parts, record: Boot
) -> None:
    form = {
        "hostname": "n1\x1b[2J",
        "instance_id": str(record.id),
        "pub_key_ed25519": "ssh-ed25519 AAAA root@n1\n",
    }
    answer = node(parts, record).post(path(parts, record, "phone-home"), data=form)
    assert answer.status_code == 200
    assert milestone(parts) == "up"
    found = api.get("/v1/nodes/n1").json()
    assert found["ssh_host_keys"] == ["ssh-ed25519 AAAA root@n1"]
    last = api.get("/v1/nodes/n1/events").json()["items"][-1]
    assert last["kind"] == "boot.up"
    assert "\x1b" not in last["message"]


def test_what_a_node_says_of_its_disks_counts_where_it_was_to_wipe_them(
    api: TestClient, parts: Parts, record: Boot
) -> None:
    form = {"hostname": "n1", "cleaned": "yes", "disk": ["vda 1G: \x1b[2Jwiped", "vdb " + "x" * 300] * 200}

    def said() -> list[str] | None:
        node(parts, record).post(path(parts, record, "phone-home"), data=form)
        with parts.db.read() as session:
            return session.get_one(Boot, record.id).cleaned

    assert said() is None  # a tenant's node says it for nothing
    with parts.db.write() as session:
        session.get_one(Boot, record.id).cleaning = True
    found = said()
    assert found is not None
    assert (len(found), found[0], len(found[1])) == (256, "vda 1G: [2Jwiped", 200)
    form["disk"] = []
    assert said() == []
    del form["cleaned"]
    assert said() is None


def test_a_node_that_was_given_up_on_and_comes_up_late_is_active(
    api: TestClient, site: Any, parts: Parts, record: Boot
) -> None:
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    body = {"image": "golden", "network": "net", "project": "red", "until": "up", "deadline": 0.2}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    assert api.get("/v1/nodes/n1").json()["state"] == "failed"
    with parts.db.read() as session:
        late = session.scalars(select(Boot)).one()
    node(parts, late).post(path(parts, late, "phone-home"), data={"hostname": "n1"})
    found = api.get("/v1/nodes/n1").json()
    assert (found["state"], found["problem"]) == ("active", None)


# --- where another server gives addresses -----------------------------------------------------------------


@pytest.fixture
def beside(api: TestClient, site: Any, parts: Parts) -> Boot:
    """A node on a network where another server gives addresses."""
    site.project("red")
    body = {"name": "net", "project": "red", "dhcp": "proxy", "subnet": "10.64.0.0/24"}
    site.ended(api.post("/v1/networks", json=body))
    site.image("golden")
    site.node("n1", 1)
    body = {"image": "golden", "network": "net", "project": "red", "until": "power", "address": "10.64.0.9"}
    site.ended(api.post("/v1/nodes/n1/provision", json=body))
    with parts.db.read() as session:
        return session.scalars(select(Boot)).one()


def cards(monkeypatch: pytest.MonkeyPatch, known: dict[str, str]) -> None:
    """Let the kernel know whose cards answered for addresses."""
    monkeypatch.setattr("bmi.boot.neighbours.card_of", lambda rights, leg, address: known.get(str(address)))


def test_a_node_at_the_address_named_for_it_is_told_without_a_token(
    parts: Parts, beside: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, {"10.64.0.9": "52:54:00:00:00:01"})
    answer = node(parts, beside).get("/boot/script.ipxe")
    assert parts.vault.open(beside.chap_secret) in answer.text
    assert milestone(parts) == "script"


def test_a_node_at_another_address_gets_nothing_and_the_operator_learns_of_it(
    api: TestClient, parts: Parts, beside: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, {"10.64.0.77": "52:54:00:00:00:01"})
    assert node(parts, beside, address="10.64.0.77").get("/boot/script.ipxe").status_code == 404
    assert refusals(api) == [
        "request for the boot script or report refused: the node has the address 10.64.0.77, and not 10.64.0.9"
    ]
    error = diagnosis(parts, beside, 90)
    assert "the node has the address 10.64.0.77" in error.message
    assert "let the other DHCP server give 10.64.0.9 to 52:54:00:00:00:01" in error.next_step
    # What was seen changes nothing: the disk is where it was told to be.
    with parts.db.read() as session:
        assert session.scalars(select(Boot)).one().attachment.address == "10.64.0.9"


@pytest.mark.parametrize("card", ["52:54:00:00:00:02", None])
def test_who_has_the_nodes_address_and_not_its_card_gets_nothing(
    parts: Parts, beside: Boot, monkeypatch: pytest.MonkeyPatch, card: str | None
) -> None:
    cards(monkeypatch, {"10.64.0.9": card} if card else {})
    assert node(parts, beside).get("/boot/script.ipxe").status_code == 404
    assert milestone(parts) == "power"


def test_where_bmi_gives_addresses_nobody_is_told_without_a_token(
    parts: Parts, record: Boot, monkeypatch: pytest.MonkeyPatch
) -> None:
    cards(monkeypatch, {record.attachment.address: record.attachment.nic.mac})
    assert node(parts, record).get("/boot/script.ipxe").status_code == 404
