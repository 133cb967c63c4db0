"""What a network can be told to be, and what its nodes are told then."""

from ipaddress import IPv4Address
from typing import Any, cast

import pytest
import yaml
from fastapi.testclient import TestClient
from sqlalchemy import select

from bmi.boot.dhcp_conf import Addressing, DhcpMode, NodeName
from bmi.boot.models import Boot
from bmi.boot.service import seed_content
from bmi.errors import BootServiceError
from bmi.ids import new_id
from bmi.parts import Parts
from tests.unit.boot.test_seed import files

SUBNET = "10.70.0.0/24"


def _full(first: str, last: str) -> dict[str, Any]:
    return {"dhcp": "full", "dhcp_range": {"first": first, "last": last}}


@pytest.fixture(autouse=True)
def red(site: Any) -> None:
    site.project("red")
    site.image("golden")
    site.node("n1", 1)
    site.node("n2", 2)


def create(api: TestClient, **settings: Any) -> Any:
    return api.post("/v1/networks", json={"name": "lan", "project": "red", "subnet": SUBNET, **settings})


def update(api: TestClient, **settings: Any) -> Any:
    return api.patch("/v1/networks/lan?project=red", json=settings)


def show(api: TestClient) -> dict[str, Any]:
    return cast("dict[str, Any]", api.get("/v1/networks/lan?project=red").json())


def provision(api: TestClient, node: str = "n1", **more: Any) -> Any:
    body = {"image": "golden", "network": "lan", "project": "red", "until": "power", **more}
    return api.post(f"/v1/nodes/{node}/provision", json=body)


def told(parts: Parts) -> tuple[Addressing, list[NodeName]]:
    """What the network's dnsmasq was told last."""
    fake = cast("Any", parts.gateway.dnsmasq)
    ((network, addressing),) = fake.addressing.items()
    return addressing, fake.names[network]


def card(parts: Parts) -> dict[str, Any]:
    """What the node's seed says about its card."""
    with parts.db.read() as session:
        record = session.scalars(select(Boot)).one()
    (found,) = yaml.safe_load(files(seed_content(parts, record, []))["/network-config"])["ethernets"].values()
    return cast("dict[str, Any]", found)


def test_a_network_that_nobody_set_gives_reservations_and_names(
    api: TestClient, site: Any, parts: Parts
) -> None:
    site.ended(create(api))
    assert {name: show(api)[name] for name in ("dhcp", "dhcp_range", "router", "dns", "domain", "mtu")} == {
        "dhcp": "reservations",
        "dhcp_range": None,
        "router": None,
        "dns": True,
        "domain": "red.bmi.internal",
        "mtu": None,
    }
    site.ended(provision(api))
    addressing, names = told(parts)
    assert addressing == Addressing(dns=True, zone="red.bmi.internal")
    assert names == [NodeName("n1.red.bmi.internal", IPv4Address("10.70.0.1"))]
    assert "nameservers" not in card(parts)  # DHCP tells of them
    site.ended(api.post("/v1/nodes/n1/deprovision", json={}))
    assert told(parts)[1] == []


def test_every_setting_reaches_dnsmasq_the_seed_and_who_looks(
    api: TestClient, site: Any, parts: Parts
) -> None:
    settings = {
        "dhcp": "full",
        "dhcp_range": {"first": "10.70.0.100", "last": "10.70.0.199"},
        "router": "10.70.0.1",
        "dns_servers": ["192.0.2.53", "10.70.0.2"],
        "domain": "rack7.example.org",
        "mtu": 9000,
        "lease_seconds": 3600,
    }
    site.ended(create(api, **settings))
    shown = show(api)
    assert {name: shown[name] for name in settings} == {**settings, "domain": "red.rack7.example.org"}
    site.ended(provision(api))
    # The router's address is not a node's.
    assert api.get("/v1/nodes/n1").json()["address"] == "10.70.0.2"
    assert told(parts)[0] == Addressing(
        DhcpMode.FULL,
        dynamic=(IPv4Address("10.70.0.100"), IPv4Address("10.70.0.199")),
        router=IPv4Address("10.70.0.1"),
        dns=True,
        dns_servers=(IPv4Address("192.0.2.53"), IPv4Address("10.70.0.2")),
        zone="red.rack7.example.org",
        mtu=9000,
        lease=3600,
    )
    assert card(parts) | {"match": None} == {
        "match": None,
        "dhcp4": True,
        "mtu": 9000,
        "critical": True,
    }


def test_an_update_changes_what_it_names_and_null_takes_away(
    api: TestClient, site: Any, parts: Parts
) -> None:
    site.ended(create(api, mtu=9000, router="10.70.0.1"))
    operation = site.ended(update(api, dns=False, router=None))
    assert operation["state"] == "succeeded", operation
    shown = show(api)
    assert (shown["mtu"], shown["router"], shown["dns"], shown["domain"]) == (9000, None, False, None)
    assert told(parts)[0] == Addressing(mtu=9000)
    # What is no range's mode has none.
    site.ended(update(api, dhcp="full", dhcp_range={"first": "10.70.0.9", "last": "10.70.0.9"}))
    site.ended(update(api, dhcp="reservations"))
    assert show(api)["dhcp_range"] is None


def test_an_update_that_no_gateway_takes_changes_nothing(
    api: TestClient, site: Any, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.ended(create(api))
    fake = cast("Any", parts.gateway.dnsmasq)
    serve = fake.serve

    def refuse(leg: Any, hosts: Any, *, addressing: Addressing, names: Any) -> Any:
        if addressing.mtu:
            raise BootServiceError("it does not start", next_step="look")
        return serve(leg, hosts, addressing=addressing, names=names)

    monkeypatch.setattr(fake, "serve", refuse)
    operation = site.ended(update(api, mtu=9000))
    assert (operation["state"], operation["ending"]) == ("failed", "undone")
    assert show(api)["mtu"] is None
    assert told(parts)[0].mtu is None


IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"dhcp": "full"}, "needs a range"),
    ({"dhcp_range": {"first": "10.70.0.9", "last": "10.70.0.20"}}, "has no range"),
    (_full("10.70.0.20", "10.70.0.9"), "is empty"),
    (_full("10.70.0.9", "10.70.0.252"), "end of the DHCP range 10.70.0.252"),
    (_full("10.70.1.9", "10.70.1.20"), "start of the DHCP range"),
    (_full("10.70.0.0", "10.70.0.20"), "start of the DHCP range"),
    (_full("10.70.0.9", "10.70.0.20") | {"router": "10.70.0.10"}, "router 10.70.0.10 is in"),
    ({"router": "10.70.0.254"}, "router 10.70.0.254"),
    ({"router": "192.0.2.1"}, "router 192.0.2.1"),
    ({"dns_servers": ["10.70.0.254"]}, "cannot be a DNS server"),
    ({"dns_servers": ["127.0.0.1"]}, "cannot be a DNS server"),
    ({"dns_servers": ["192.0.2.53"]}, "cannot reach the DNS server"),
]
NO_VALUES: list[dict[str, Any]] = [
    {"mtu": 575},
    {"mtu": 9217},
    {"mtu": "big"},
    {"lease_seconds": 119},
    {"domain": "a\nb"},
    {"domain": "-x.org"},
    {"domain": "a..b"},
    {"domain": "x" * 121},
    {"router": 3},
    {"router": "fe80::1"},
    {"dns_servers": ["10.70.0.1"] * 4},
    {"dns_servers": None},
    {"dhcp": "maybe"},
    {"dhcp_range": "10.70.0.1-10.70.0.2"},
    {"dns": None},
]


def test_what_cannot_be_is_refused(api: TestClient) -> None:
    for asked, said in IMPOSSIBLE:
        answer = create(api, **asked)
        assert answer.status_code == 400, asked
        assert said in answer.json()["detail"]
    assert api.get("/v1/networks?project=red").json()["items"] == []


def test_what_is_no_value_is_refused(api: TestClient, site: Any) -> None:
    assert [asked for asked in NO_VALUES if create(api, **asked).status_code != 422] == []
    site.ended(create(api))
    assert [asked for asked in NO_VALUES if update(api, **asked).status_code != 422] == []


def test_nodes_that_are_there_are_not_put_where_others_are(api: TestClient, site: Any) -> None:
    site.ended(create(api))
    site.ended(provision(api, address="10.70.0.50"))
    answer = update(api, **_full("10.70.0.40", "10.70.0.60"))
    assert answer.status_code == 400
    assert "node n1 has the address 10.70.0.50" in answer.json()["detail"]
    assert update(api, router="10.70.0.50").status_code == 400


def test_an_address_that_is_named_has_to_be_a_nodes(api: TestClient, site: Any) -> None:
    site.ended(create(api, router="10.70.0.1", **_full("10.70.0.100", "10.70.0.110")))
    for address in ("10.70.0.100", "10.70.0.251", "10.70.0.0", "10.70.0.1", "10.71.0.5"):
        assert provision(api, address=address).status_code == 400, address
    assert provision(api, address=5).status_code == 422
    assert provision(api, address="10.70.0.250").status_code == 202


def test_an_address_is_given_once(api: TestClient, site: Any) -> None:
    site.ended(create(api))
    site.ended(provision(api, address="10.70.0.50"))
    answer = provision(api, "n2", address="10.70.0.50")
    assert answer.status_code == 409
    assert "node n1 has the address 10.70.0.50" in answer.json()["detail"]


def test_where_another_server_gives_addresses_one_has_to_be_named(
    api: TestClient, site: Any, parts: Parts
) -> None:
    site.ended(create(api, dhcp="proxy"))
    assert show(api)["boot_url"] == "http://10.70.0.254:8080/boot/script.ipxe"
    refused = provision(api).json()
    assert refused["status"] == 400
    assert "52:54:00:00:00:01" in refused["next_step"]
    site.ended(provision(api, address="10.70.0.50"))
    assert told(parts)[0].script_url == "http://10.70.0.254:8080/boot/script.ipxe"
    (there,) = api.get("/v1/nodes/n1").json()["attachments"]
    assert (there["network"], there["address"]) == ("lan", "10.70.0.50")


def test_where_bmi_is_silent_the_card_has_its_address_from_the_seed(
    api: TestClient, site: Any, parts: Parts
) -> None:
    site.ended(create(api, dhcp="off", router="10.70.0.1"))
    site.ended(provision(api, address="10.70.0.50"))
    found = card(parts)
    assert found["addresses"] == ["10.70.0.50/24"]
    assert found["routes"] == [{"to": "0.0.0.0/0", "via": "10.70.0.1"}]
    assert found["nameservers"]["addresses"] == ["10.70.0.254"]
    assert "dhcp4" not in found


def test_a_node_whose_name_is_none_in_the_dns_has_none(api: TestClient, site: Any, parts: Parts) -> None:
    site.node("a..b", 3)
    site.ended(create(api))
    site.ended(provision(api, "a..b", hostname="x"))
    assert told(parts)[1] == []


def test_members_and_strangers_change_no_network(api: TestClient, site: Any) -> None:
    site.ended(create(api))
    assert api.patch(f"/v1/networks/{new_id()}", json={"mtu": 1400}).status_code == 404
    made = api.post("/v1/tokens", json={"name": "m", "role": "member", "project": "red"}).json()
    token = made["secret"]
    answer = api.patch("/v1/networks/lan", json={"mtu": 1400}, headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 403
