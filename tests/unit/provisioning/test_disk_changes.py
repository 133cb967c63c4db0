"""Disks that are rolled back, grow, move to another node and are adopted, on memory drivers."""

from pathlib import Path
from typing import Any, cast

import pytest
from fastapi.testclient import TestClient

from bmi.boot.models import Boot
from bmi.drivers.power import Bmc, PowerState
from bmi.drivers.storage import Kind, Volume
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.errors import BmcRefused, StorageError
from bmi.images.models import Disk
from bmi.parts import Parts
from bmi.provisioning import engine
from tests.service import IMAGE_SIZE
from tests.unit.provisioning.test_provision import NOTHING, is_reset, left, node, provision, red, tamper

__all__ = ["red"]

QUICK = {"until": "power"}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "FIRST_PAUSE", 0.01)


class World:
    """What a tenant does with disks, in a line each."""

    def __init__(self, api: TestClient, site: Any, parts: Parts) -> None:
        self.api, self.site, self.parts = api, site, parts

    def disk(self, name: str = "d", **more: Any) -> None:
        self.must(
            self.api.post("/v1/disks", json={"name": name, "image": "golden", "project": "red", **more})
        )

    def booted(self) -> str:
        """Boot n1 from a disk, and return the disk's name."""
        self.disk()
        self.must(provision(self.api, image=None, disk="d", hostname="web"))
        return "d"

    def ask(self, verb: str, disk: str = "d", **body: Any) -> Any:
        return self.api.post(f"/v1/disks/{disk}/{verb}?project=red", json=body)

    def must(self, answer: Any) -> dict[str, Any]:
        ended = self.site.ended(answer)
        assert ended["state"] == "succeeded", ended
        return cast("dict[str, Any]", ended)

    def shown(self, disk: str = "d") -> dict[str, Any]:
        return cast("dict[str, Any]", self.api.get(f"/v1/disks/{disk}?project=red").json())

    def path(self, disk: str = "d") -> Path:
        with self.parts.db.read() as session:
            id = session.query(Disk).filter_by(name=disk).one().id
        return Path(self.parts.storage.backing(Volume(Kind.DISK, id)).path)

    def write(self, word: bytes, disk: str = "d") -> None:
        with self.path(disk).open("r+b") as file:
            file.write(word)

    def read(self, disk: str = "d") -> bytes:
        return self.path(disk).read_bytes()[:6]

    def power(self, name: str) -> PowerState:
        return cast("PowerState", self.parts.powers["memory"].state(Bmc(f"bmc-{name}", "u", "secret")))

    def exports(self) -> list[str]:
        target = self.parts.gateway.target
        return [export.initiator for portal in target.portals() for export in target.exports(portal)]


@pytest.fixture
def world(api: TestClient, site: Any, parts: Parts) -> World:
    return World(api, site, parts)


def refused(*_: object, **__: object) -> None:
    raise StorageError("the store is broken", next_step="mend it")


def bmc_refuses(bmc: Bmc) -> None:
    raise BmcRefused(f"BMC {bmc.address} refuses", next_step="look at it")


# --- rolling back ----------------------------------------------------------------------------------------


def test_a_disk_becomes_what_it_was_cloned_from_or_a_snapshot_of_it(world: World) -> None:
    world.disk()
    world.write(b"good!!")
    world.must(world.ask("snapshot", name="shot"))
    world.write(b"broken")

    world.must(world.ask("rollback", image="shot", keep="before"))
    assert world.read() == b"good!!"
    assert world.shown()["image_name"] == "shot"

    world.must(world.ask("rollback", image="before"))
    assert world.read() == b"broken"
    world.must(world.ask("rollback", image="golden", other_image=True))
    assert world.read() == b"golden"


def test_an_image_that_has_nothing_to_do_with_the_disk_has_to_be_meant(world: World) -> None:
    world.disk()
    world.disk("other")
    world.must(world.ask("snapshot", "other", name="theirs"))

    answer = world.ask("rollback", image="theirs")

    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    assert "--other-image" in answer.json()["next_step"]
    world.must(world.ask("rollback", image="theirs", other_image=True))


def test_a_node_is_off_while_its_disk_is_rolled_back_and_on_again_after_it(world: World) -> None:
    world.booted()
    world.write(b"broken")

    ended = world.must(world.ask("rollback", **QUICK))

    assert [step["name"] for step in ended["steps"]] == [
        *("image", "look", "power off", "end export", "roll back", "export", "power on", "watch")
    ]
    assert world.read() == b"golden"
    assert (world.power("n1"), node(world.api)["state"]) == (PowerState.ON, "active")
    assert len(world.exports()) == 1


def test_a_node_that_is_off_stays_off(world: World, api: TestClient) -> None:
    world.booted()
    world.must(api.post("/v1/nodes/n1/power", json={"action": "off"}))

    world.must(world.ask("rollback"))

    assert (world.power("n1"), node(api)["state"]) == (PowerState.OFF, "active")
    assert len(world.exports()) == 1


def test_what_fails_before_the_content_is_replaced_leaves_everything_as_it_was(
    world: World, api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.booted()
    world.write(b"mine!!")
    with monkeypatch.context() as broken:
        broken.setattr(parts.storage, "snapshot", refused)
        failed = world.site.ended(world.ask("rollback", keep="before", **QUICK))

    assert failed["ending"] == "undone"
    assert world.read() == b"mine!!"
    assert (world.power("n1"), node(api)["state"]) == (PowerState.ON, "active")
    assert len(world.exports()) == 1
    assert api.get("/v1/images/before?project=red").status_code == 404


def test_what_fails_after_that_stands_and_goes_on_with_what_was_kept(
    world: World, api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.booted()
    world.write(b"broken")
    with monkeypatch.context() as broken:
        broken.setattr(parts.powers["memory"], "on", bmc_refuses)
        failed = world.site.ended(world.ask("rollback", keep="before", **QUICK))
    assert (failed["ending"], node(api)["state"]) == ("standing", "failed")
    assert f"bmi op retry {failed['id']}" in node(api)["problem"]
    assert api.get("/v1/images/before?project=red").json()["state"] == "ready"

    world.must(api.post(f"/v1/operations/{failed['id']}/retry"))

    assert world.read() == b"golden"
    assert (world.power("n1"), node(api)["state"], node(api)["problem"]) == (PowerState.ON, "active", None)
    world.must(world.ask("rollback", image="before", **QUICK))
    assert world.read() == b"broken"


def test_a_kept_state_that_could_not_be_undone_is_kept_anew(
    world: World, api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.disk()
    with monkeypatch.context() as broken:
        broken.setattr(parts.storage, "snapshot", refused)
        broken.setattr(parts.storage, "remove", refused)
        failed = world.site.ended(world.ask("rollback", keep="before"))
    assert failed["ending"] == "stuck"
    world.write(b"latest")

    world.must(api.post(f"/v1/operations/{failed['id']}/retry"))

    assert world.read() == b"golden"
    world.must(world.ask("rollback", image="before"))
    assert world.read() == b"latest"


# --- growing ---------------------------------------------------------------------------------------------


def test_a_disk_grows_and_never_shrinks(world: World) -> None:
    world.disk()

    world.must(world.ask("grow", size=2 * IMAGE_SIZE))

    assert world.shown()["size"] == 2 * IMAGE_SIZE == world.path().stat().st_size
    for size in (IMAGE_SIZE, 2 * IMAGE_SIZE + 1):
        answer = world.ask("grow", size=size)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    world.must(world.ask("rollback", image="golden"))
    assert world.path().stat().st_size == 2 * IMAGE_SIZE


def test_a_node_that_runs_is_restarted_for_a_new_size_or_left_alone(world: World, api: TestClient) -> None:
    world.booted()

    left_alone = world.site.ended(world.ask("grow", size=2 * IMAGE_SIZE))
    assert (left_alone["error"]["code"], left_alone["ending"]) == ("in-use", "undone")
    assert "--restart" in left_alone["error"]["next_step"]
    assert (world.power("n1"), world.shown()["size"]) == (PowerState.ON, IMAGE_SIZE)

    world.must(world.ask("grow", size=2 * IMAGE_SIZE, restart=True, **QUICK))
    assert (world.power("n1"), world.shown()["size"]) == (PowerState.ON, 2 * IMAGE_SIZE)
    world.must(api.post("/v1/nodes/n1/power", json={"action": "off"}))
    world.must(world.ask("grow", size=3 * IMAGE_SIZE))
    assert (world.power("n1"), len(world.exports())) == (PowerState.OFF, 1)


def test_a_disk_that_grew_although_that_failed_has_its_true_size(
    world: World, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.booted()
    with monkeypatch.context() as broken:
        broken.setattr(parts.gateway.target, "serve", refused)
        failed = world.site.ended(world.ask("grow", size=2 * IMAGE_SIZE, restart=True, **QUICK))
    assert failed["state"] == "failed"
    assert world.shown()["size"] == 2 * IMAGE_SIZE


# --- moving ----------------------------------------------------------------------------------------------


def test_a_disk_moves_to_another_node_with_everything_it_was_told(
    world: World, api: TestClient, parts: Parts
) -> None:
    world.booted()
    world.write(b"mine!!")
    before, vlan = node(api), api.get("/v1/networks/net?project=red").json()["vlan"]
    with parts.db.read() as session:
        secret = parts.vault.open(session.query(Boot).one().chap_secret)
    tamper(parts)

    world.must(world.ask("move", to="n2", **QUICK))

    assert is_reset(parts)
    first, second = node(api), node(api, "n2")
    assert (first["state"], first["project"], first["disk"]) == ("available", None, None)
    assert (second["state"], second["project"], second["disk"]) == ("active", "red", "d")
    assert second["address"] == before["address"]
    assert world.read() == b"mine!!"
    assert (world.power("n1"), world.power("n2")) == (PowerState.OFF, PowerState.ON)
    ports = parts.switches["sw1"]
    assert (ports.port("port1").vlans, ports.port("port2").vlans) == (ISOLATED, PortVlans(native=vlan))
    assert [name.rpartition(":node-")[2] for name in world.exports()] == [second["id"]]
    with parts.db.read() as session:
        record = session.query(Boot).one()
        assert record.hostname == "web"
        assert parts.vault.open(record.chap_secret) != secret
    told = [event["message"] for event in api.get("/v1/nodes/n1/events").json()["items"]]
    assert told[-1] == "disk d is at node n2"
    world.must(world.ask("move", to="n1", **QUICK))
    assert node(api)["disk"] == "d"
    world.must(api.post("/v1/nodes/n1/deprovision", json={}))
    assert left(api) == NOTHING


def test_a_disk_moves_to_another_network(world: World, api: TestClient, site: Any) -> None:
    world.booted()
    site.network("net2", "red")

    world.must(world.ask("move", to="n2", network="net2", **QUICK))

    assert node(api, "n2")["network"] == "net2"
    world.must(api.post("/v1/nodes/n2/deprovision", json={}))
    world.must(api.delete("/v1/networks/net?project=red"))  # no address of it is left behind


def test_a_move_that_cannot_be_is_refused(world: World, api: TestClient, site: Any) -> None:
    world.disk("free")
    answer = world.ask("move", "free", to="n2")
    assert (answer.status_code, answer.json()["code"]) == (409, "wrong-state")
    assert "bmi node provision n2 --disk free" in answer.json()["next_step"]
    world.booted()
    for to, code in (("n1", "bad-request"), ("n9", "not-found")):
        assert world.ask("move", to=to).json()["code"] == code
    world.must(provision(api, "n2"))
    answer = world.ask("move", to="n2")
    assert (answer.status_code, answer.json()["code"]) == (409, "in-use")
    assert node(api)["state"] == node(api, "n2")["state"] == "active"


def test_nobody_touches_either_node_meanwhile(world: World, api: TestClient) -> None:
    world.booted()
    running = world.ask("move", to="n2", until="up")

    for path, body in (
        ("nodes/n1/power", {"action": "off"}),
        ("nodes/n1/deprovision", {}),
        ("nodes/n1/reset", {}),
        ("nodes/n2/power", {"action": "off"}),
        ("nodes/n2/reset", {}),
    ):
        answer = api.post(f"/v1/{path}", json=body)
        assert (answer.status_code, answer.json()["code"]) == (409, "in-use"), path
    assert node(api)["operation"] == node(api, "n2")["operation"] == running.json()["id"]
    api.post(f"/v1/operations/{running.json()['id']}/cancel")
    assert world.site.ended(running)["ending"] == "undone"
    assert (node(api)["state"], node(api, "n2")["state"]) == ("active", "available")


@pytest.mark.parametrize("on", [True, False])
def test_a_second_node_that_does_not_come_on_leaves_the_first_as_it_was(
    world: World, api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch, on: bool
) -> None:
    world.booted()
    if not on:
        world.must(api.post("/v1/nodes/n1/power", json={"action": "off"}))
    switch_on = parts.powers["memory"].on
    with monkeypatch.context() as broken:
        broken.setattr(
            parts.powers["memory"],
            "on",
            lambda bmc: (bmc_refuses if bmc.address == "bmc-n2" else switch_on)(bmc),
        )
        failed = world.site.ended(world.ask("move", to="n2", **QUICK))

    assert failed["ending"] == "undone"
    assert (node(api)["state"], node(api)["disk"]) == ("active", "d")
    assert (node(api, "n2")["state"], node(api, "n2")["project"]) == ("available", None)
    assert world.power("n1") is (PowerState.ON if on else PowerState.OFF)
    assert world.power("n2") is PowerState.OFF
    assert [name.rpartition(":node-")[2] for name in world.exports()] == [node(api)["id"]]
    world.must(api.post(f"/v1/operations/{failed['id']}/retry"))
    assert node(api, "n2")["disk"] == "d"


def test_a_second_node_that_does_not_boot_keeps_the_disk_for_a_look(world: World, api: TestClient) -> None:
    world.booted()

    failed = world.site.ended(world.ask("move", to="n2", until="dhcp", deadline=0.1))

    assert failed["ending"] == "standing"
    assert "no DHCP request from 52:54:00:00:00:02" in failed["error"]["detail"]
    assert (node(api)["state"], node(api, "n2")["state"]) == ("available", "failed")
    again = world.site.ended(api.post(f"/v1/operations/{failed['id']}/retry"))
    assert (again["verb"], again["ending"]) == ("node.provision", "standing")
    world.must(api.post("/v1/nodes/n2/deprovision", json={"keep_disk": True}))
    assert world.shown()["node"] is None


def test_a_move_that_could_not_be_undone_leaves_both_nodes_for_a_look(
    world: World, api: TestClient, parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.booted()
    with monkeypatch.context() as broken:
        broken.setattr(parts.powers["memory"], "on", bmc_refuses)
        failed = world.site.ended(world.ask("move", to="n2", **QUICK))
    assert failed["ending"] == "stuck"
    assert (node(api)["state"], node(api, "n2")["state"]) == ("failed", "failed")
    for name in ("n1", "n2"):
        world.must(api.post(f"/v1/nodes/{name}/reset", json={}))
    assert world.shown()["node"] is None
    assert left(api) == NOTHING | {"disks": 1}


# --- adopting --------------------------------------------------------------------------------------------


def test_what_lies_in_the_store_becomes_a_disk(world: World, api: TestClient, parts: Parts) -> None:
    folder = parts.settings.state_dir / "storage-memory" / "adopt"
    (folder / "theirs").write_bytes(b"theirs".ljust(IMAGE_SIZE, b"\0"))

    world.must(api.post("/v1/disks/adopt", json={"name": "d", "source": "theirs", "project": "red"}))

    assert (world.read(), world.shown()["size"], world.shown()["image"]) == (b"theirs", IMAGE_SIZE, None)
    assert [info.volume.kind for info in parts.storage.volumes()].count(Kind.IMAGE) == 1  # the golden one
    answer = world.ask("rollback")
    assert (answer.status_code, answer.json()["code"]) == (400, "bad-request")
    missing = world.site.ended(
        api.post("/v1/disks/adopt", json={"name": "e", "source": "nothing", "project": "red"})
    )
    assert (missing["error"]["code"], missing["ending"]) == ("not-found", "undone")
    assert world.shown("e")["code"] == "not-found"
