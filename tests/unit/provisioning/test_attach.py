"""Nodes on several networks and with several cards, on memory drivers: what is carried, told, and undone."""

from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from bmi.api.doctor import Report
from bmi.boot.models import Boot
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.errors import SwitchError
from bmi.networks.models import Attachment
from bmi.parts import Parts
from bmi.provisioning import engine
from bmi.provisioning.converge import converge
from tests.unit.provisioning.test_provision import node, provision, red

__all__ = ["red"]

TAGGED = {"network": "storage", "tagged": True}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FIRST_PAUSE", 0.01)
    monkeypatch.setattr(engine, "LONGEST_PAUSE", 0.01)


class World:
    """A tenant with three networks and a node with two cards."""

    def __init__(self, api: TestClient, site: Any, parts: Parts) -> None:
        self.api, self.site, self.parts = api, site, parts
        self.vlans = {name: site.network(name, "red")["vlan"] for name in ("storage", "data")}
        self.vlans["net"] = api.get("/v1/networks/net?project=red").json()["vlan"]
        site.node("big", 3, cards=2)

    def must(self, answer: Any) -> dict[str, Any]:
        ended = self.site.ended(answer)
        assert ended["state"] == "succeeded", ended
        return cast("dict[str, Any]", ended)

    def carries(self, *ports: str) -> list[PortVlans]:
        return [self.parts.switches["sw1"].port(port).vlans for port in ports]

    def vlan(self, native: str | None = None, *tagged: str) -> PortVlans:
        return PortVlans(
            self.vlans[native] if native else None, frozenset(self.vlans[name] for name in tagged)
        )

    def on(self, name: str = "big") -> list[tuple[str, int, bool, bool]]:
        return [
            (there["network"], there["nic"], there["tagged"], there["ready"])
            for there in node(self.api, name)["attachments"]
        ]

    def seed(self, name: str = "big") -> str:
        """Return the seed that lies in the store, as text that it is only in parts."""
        with self.parts.db.read() as session:
            row = session.query(Boot).filter(Boot.node.has(name=name)).one()
        return Path(self.parts.storage.backing(Volume(Kind.SEED, row.id)).path).read_bytes().decode("latin-1")

    def attach(self, name: str = "big", **body: Any) -> Any:
        return self.api.post(f"/v1/nodes/{name}/attach", json={**TAGGED, **body})

    def detach(self, network: str = "storage", name: str = "big") -> Any:
        return self.api.post(f"/v1/nodes/{name}/detach", json={"network": network})

    def healthy(self) -> bool:
        return Report.model_validate(self.api.get("/v1/doctor?quick=true").json()).errors == []


@pytest.fixture
def world(api: TestClient, site: Any, parts: Parts) -> World:
    return World(api, site, parts)


def test_a_node_boots_over_the_card_that_is_named_with_networks_beside(world: World) -> None:
    beside = [TAGGED, {"network": "data", "nic": "1"}]
    world.must(provision(world.api, "big", nic="2", attachments=beside))

    assert world.carries("port3", "port13") == [world.vlan("data"), world.vlan("net", "storage")]
    assert world.on() == [("net", 2, False, True), ("storage", 2, True, True), ("data", 1, False, True)]
    found = node(world.api, "big")
    assert found["network"] == "net"
    assert [there["boot"] for there in found["attachments"]] == [True, False, False]
    (host,) = [host for hosts in cast("Any", world.parts.gateway.dnsmasq).hosts.values() for host in hosts]
    assert host.mac == found["nics"][1]["mac"]
    seed, addresses = world.seed(), [there["address"] for there in found["attachments"]]
    storage, data = (world.api.get(f"/v1/networks/{name}?project=red").json() for name in ("storage", "data"))
    bits = storage["subnet"].partition("/")[2]
    assert f"vlan 52:54:00:00:01:03 {storage['vlan']} {addresses[1]}/{bits}\n" in seed
    assert f"card 52:54:00:00:00:03 {addresses[2]}/{bits}\n" in seed
    assert data["subnet"].rpartition(".")[0] in addresses[2]
    assert world.healthy()


def test_a_card_is_also_known_by_its_mac(world: World) -> None:
    world.must(provision(world.api, "big", nic="52:54:00:00:01:03"))
    assert world.carries("port3", "port13") == [ISOLATED, world.vlan("net")]


def test_giving_a_node_back_takes_all_its_cards_off_all_networks(world: World) -> None:
    world.must(provision(world.api, "big", attachments=[TAGGED, {"network": "data", "nic": "2"}]))
    world.must(world.api.post("/v1/nodes/big/deprovision", json={}))

    assert world.carries("port3", "port13") == [ISOLATED, ISOLATED]
    assert world.on() == []
    with world.parts.db.read() as session:
        assert session.query(Attachment).count() == 0
    for name in ("net", "storage", "data"):
        world.must(world.api.delete(f"/v1/networks/{name}?project=red"))


def test_a_provision_that_fails_leaves_no_network_behind(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise SwitchError("no", next_step="-")

    switch = world.parts.switches["sw1"]
    configure = switch.configure
    monkeypatch.setattr(
        switch, "configure", lambda port, vlans: fail() if vlans.tagged else configure(port, vlans)
    )
    ended = world.site.ended(provision(world.api, "big", attachments=[{**TAGGED, "nic": "2"}]))
    assert (ended["state"], ended["ending"]) == ("failed", "undone")
    assert world.carries("port3", "port13") == [ISOLATED, ISOLATED]
    with world.parts.db.read() as session:
        assert session.query(Attachment).count() == 0


@pytest.mark.parametrize(
    ("more", "status", "told"),
    [
        ({"nic": "3"}, 400, "has no card 3"),
        ({"nic": "eth0"}, 422, ""),
        ({"attachments": [{"network": "net", "tagged": True}]}, 409, "is on network net already"),
        ({"attachments": [TAGGED, {**TAGGED, "nic": "2"}]}, 409, "is on network storage already"),
        ({"attachments": [{"network": "data"}]}, 409, "has network net without a tag"),
        ({"attachments": [{"network": "nosuch"}]}, 404, "no network nosuch"),
        ({"attachments": [{**TAGGED, "nic": "9"}]}, 400, "has no card 9"),
    ],
)
def test_what_no_port_can_carry_is_refused_and_leaves_nothing(
    world: World, more: dict[str, Any], status: int, told: str
) -> None:
    answer = provision(world.api, "big", **more)
    assert answer.status_code == status, answer.text
    assert told in answer.text
    assert node(world.api, "big")["state"] == "available"
    with world.parts.db.read() as session:
        assert session.query(Attachment).count() == 0


def test_a_node_that_runs_joins_a_network_and_leaves_it(world: World) -> None:
    world.must(provision(world.api, "big"))
    before = world.seed()

    joined = world.must(world.attach())
    assert [step["name"] for step in joined["steps"]] == ["network", "seed"]
    assert joined["result"]["vlan"] == world.vlans["storage"]
    assert world.carries("port3") == [world.vlan("net", "storage")]
    assert joined["result"]["address"] in world.seed()
    world.must(world.attach(network="data", tagged=False, nic="2"))
    assert world.carries("port3", "port13") == [world.vlan("net", "storage"), world.vlan("data")]
    assert world.healthy()

    world.must(world.detach("storage"))
    world.must(world.detach("red:data"))
    assert world.carries("port3", "port13") == [world.vlan("net"), ISOLATED]
    assert world.seed() == before
    assert world.on() == [("net", 1, False, True)]


def test_a_network_on_which_a_node_boots_is_not_detached(world: World) -> None:
    world.must(provision(world.api, "big"))
    answer = world.detach("net")
    assert answer.status_code == 409
    assert "boots over network net" in answer.text
    assert world.detach("data").status_code == 404


def test_what_does_not_run_joins_nothing(world: World) -> None:
    assert world.attach().status_code == 409
    assert world.detach().status_code == 409


def test_joining_is_undone_when_the_seed_cannot_be_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.must(provision(world.api, "big"))
    written, told = world.seed(), []
    write = world.parts.storage.write_seed

    def once(*args: Any) -> Any:
        told.append(args)
        if len(told) == 1:
            raise engine.BmiError("full", next_step="-")
        return write(*args)

    monkeypatch.setattr(world.parts.storage, "write_seed", once)
    ended = world.site.ended(world.attach())
    assert (ended["state"], ended["ending"]) == ("failed", "undone")
    assert world.carries("port3") == [world.vlan("net")]
    assert (world.seed(), world.on()) == (written, [("net", 1, False, True)])
    assert node(world.api, "big")["state"] == "active"


def test_leaving_that_fails_goes_on_and_convergence_does_not_bring_it_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.must(provision(world.api, "big", attachments=[TAGGED]))
    with monkeypatch.context() as patch:

        def fail(*args: Any) -> None:
            raise SwitchError("silent", next_step="-")

        patch.setattr(world.parts.switches["sw1"], "configure", fail)
        assert world.site.ended(world.detach())["state"] == "failed"
    assert world.on()[1] == ("storage", 1, True, False)
    converge(world.parts)
    assert world.carries("port3") == [world.vlan("net")]
    world.must(world.detach())
    assert world.on() == [("net", 1, False, True)]


def test_convergence_and_the_doctor_know_of_all_networks(world: World) -> None:
    world.must(provision(world.api, "big", attachments=[TAGGED, {"network": "data", "nic": "2"}]))
    switch = world.parts.switches["sw1"]
    switch.configure("port3", world.vlan("net", "data"))
    switch.configure("port13", ISOLATED)
    found = world.api.get("/v1/doctor?quick=true").json()["findings"]
    assert sorted(one["code"] for one in found) == ["port-differs", "port-differs"]
    converge(world.parts)
    assert world.carries("port3", "port13") == [world.vlan("net", "storage"), world.vlan("data")]


def test_a_power_cycle_shows_the_node_the_seed_as_it_is_now(world: World) -> None:
    world.must(provision(world.api, "big"))
    cycled = world.must(world.api.post("/v1/nodes/big/power", json={"action": "cycle"}))
    assert [step["name"] for step in cycled["steps"]] == ["power off", "power on"]

    world.must(world.attach())
    kept = world.must(world.api.post("/v1/nodes/big/power", json={"action": "on"}))
    assert "keeps the seed" in kept["steps"][0]["detail"]
    cycled = world.must(world.api.post("/v1/nodes/big/power", json={"action": "cycle"}))
    assert [step["name"] for step in cycled["steps"]] == ["power off", "seed", "power on"]
    cycled = world.must(world.api.post("/v1/nodes/big/power", json={"action": "cycle"}))
    assert [step["name"] for step in cycled["steps"]] == ["power off", "power on"]
    assert world.healthy()


def test_networks_beside_move_along_with_a_disk(world: World) -> None:
    world.site.node("twin", 4, cards=2)
    world.must(provision(world.api, "big", nic="2", attachments=[TAGGED, {"network": "data", "nic": "1"}]))
    disk, before = node(world.api, "big")["disk"], node(world.api, "big")["attachments"]

    move = {"to": "n1", "until": "power"}
    refused = world.api.post(f"/v1/disks/{disk}/move?project=red", json=move)
    assert refused.status_code == 400
    assert "uses its card 2" in refused.text
    world.must(world.api.post(f"/v1/disks/{disk}/move?project=red", json={**move, "to": "twin"}))

    assert world.carries("port3", "port13") == [ISOLATED, ISOLATED]
    assert world.carries("port4", "port14") == [world.vlan("data"), world.vlan("net", "storage")]
    after = node(world.api, "twin")["attachments"]
    assert [there["address"] for there in after] == [there["address"] for there in before]
    assert "vlan 52:54:00:00:01:04" in world.seed("twin")


def test_a_move_that_fails_brings_the_networks_back(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.site.node("twin", 4, cards=2)
    world.must(provision(world.api, "big", attachments=[{**TAGGED, "nic": "2"}]))
    disk = node(world.api, "big")["disk"]
    switch = world.parts.switches["sw1"]
    configure = switch.configure

    def fail(port: str, vlans: PortVlans) -> Any:
        if port == "port14" and vlans != ISOLATED:
            raise SwitchError("no", next_step="-")
        return configure(port, vlans)

    monkeypatch.setattr(switch, "configure", fail)
    ended = world.site.ended(
        world.api.post(f"/v1/disks/{disk}/move?project=red", json={"to": "twin", "until": "power"})
    )
    assert ended["ending"] == "undone", ended
    assert world.carries("port3", "port13") == [world.vlan("net"), world.vlan(None, "storage")]
    assert world.carries("port4", "port14") == [ISOLATED, ISOLATED]
    assert world.on() == [("net", 1, False, True), ("storage", 2, True, True)]
    assert world.healthy()
