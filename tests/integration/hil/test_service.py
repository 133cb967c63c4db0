"""Nodes of a HIL are imported, booted and given back; processes die, and leases end, in the middle."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from bmi.drivers.hil.client import Hil
from bmi.nodes import leases
from bmi.provisioning.converge import converge
from tests.hil.bench import HilBench, double_bench
from tests.hil.site import hil_site
from tests.service import Site

PROVISION = {"image": "golden", "network": "net", "project": "red", "until": "power"}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[HilBench]:
    with double_bench(tmp_path) as made:
        yield made


@pytest.fixture
def site(bench: HilBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    # What HIL says counts at once: the clock is no part of these tests.
    monkeypatch.setattr(leases, "FRESH", 0.0)
    with hil_site(tmp_path, bench.changing) as made:
        furnish(made)
        yield made


def furnish(site: Site) -> None:
    """A project that HIL knows too, with a network and an image; its nodes are imported."""
    site.project("red")
    site.network("net", "red")
    site.image("golden")
    answer = site.api.post("/v1/nodes/import", json={"project": "red"})
    assert [(one["node"], one["difference"]) for one in answer.json()["items"]] == [("n1", "new")]


def node(site: Site) -> dict[str, Any]:
    return cast("dict[str, Any]", site.api.get("/v1/nodes/n1").json())


def provision(site: Site) -> dict[str, Any]:
    return site.ended(site.api.post("/v1/nodes/n1/provision", json=PROVISION))


def deprovision(site: Site) -> dict[str, Any]:
    return site.ended(site.api.post("/v1/nodes/n1/deprovision", json={}))


def assert_booted(bench: HilBench) -> None:
    bench.world.daemon(at_once=True)
    machine = bench.world.nodes["n1"]
    assert machine.nics["nic1"].networks == {"vlan/native": "lan"}
    assert machine.nics["nic2"].networks == {}
    assert (machine.on, machine.bootdev) == (True, "pxe")


def assert_clean(bench: HilBench) -> None:
    bench.world.daemon(at_once=True)
    machine = bench.world.nodes["n1"]
    assert [nic.networks for nic in machine.nics.values()] == [{}, {}]
    assert (machine.on, machine.bootdev) == (False, "none")


def test_a_node_of_hil_is_imported_booted_and_given_back(site: Site, bench: HilBench) -> None:
    assert node(site)["nics"] == [
        {"mac": "52:54:00:ab:cd:01", "switch": "hil", "port": "n1/nic1"},
        {"mac": "52:54:00:ab:cd:02", "switch": "hil", "port": "n1/nic2"},
    ]
    operation = provision(site)
    assert operation["state"] == "succeeded", operation
    assert_booted(bench)
    assert (node(site)["state"], node(site)["lease"]) == ("active", "held")
    assert site.api.get("/v1/doctor?quick=true").json()["findings"] == []
    operation = deprovision(site)
    assert operation["state"] == "succeeded", operation
    assert_clean(bench)
    assert site.api.get("/v1/doctor?quick=true").json()["findings"] == []


def test_what_hil_refuses_is_undone_and_said(site: Site, bench: HilBench) -> None:
    bench.world.networks["lan"].vlan = 4000
    operation = provision(site)
    assert operation["error"]["code"] == "switch-refused"
    assert "--net-id 101" in operation["error"]["next_step"]
    assert node(site)["state"] == "available"
    assert_clean(bench)


def test_a_switch_that_fails_once_is_tried_again(
    site: Site, bench: HilBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, ends = Hil.action, []

    def action(self: Hil, action: str) -> str | None:
        ends.append(original(self, action))
        if ends[-1] == "ERROR":
            bench.world.failing.clear()
        return ends[-1]

    monkeypatch.setattr(Hil, "action", action)
    bench.world.failing.add("lan")
    assert provision(site)["state"] == "succeeded"
    assert "ERROR" in ends
    assert_booted(bench)


@pytest.mark.parametrize("verb", ["obm", "connect_network", "boot_device", "power_on"])
def test_a_provision_that_is_killed_is_carried_to_its_end(bench: HilBench, tmp_path: Path, verb: str) -> None:
    bench.world.delay = 1.5  # the next life finds the action of the one before under way
    with hil_site(tmp_path, bench.changing) as site:
        furnish(site)
    killed(bench, tmp_path, verb, "/v1/nodes/n1/provision", PROVISION)
    with hil_site(tmp_path, bench.changing) as site:
        assert last(site)["state"] == "succeeded"
        assert_booted(bench)
        assert deprovision(site)["state"] == "succeeded"
        assert_clean(bench)


@pytest.mark.parametrize("verb", ["power_off", "detach_network", "boot_device"])
def test_a_deprovision_that_is_killed_is_carried_to_its_end(
    bench: HilBench, tmp_path: Path, verb: str
) -> None:
    with hil_site(tmp_path, bench.changing) as site:
        furnish(site)
        assert provision(site)["state"] == "succeeded"
    bench.world.delay = 1.5
    killed(bench, tmp_path, verb, "/v1/nodes/n1/deprovision", {})
    with hil_site(tmp_path, bench.changing) as site:
        assert last(site)["state"] == "succeeded"
        assert node(site)["state"] == "available"
        assert_clean(bench)


def test_a_lease_that_ends_in_the_middle_of_a_provision_undoes_it(
    site: Site, bench: HilBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bmi.provisioning import boots

    original = boots.serve

    def serve(*args: Any) -> str:
        bench.world.take_away("n1", "blue")
        return original(*args)

    monkeypatch.setattr(boots, "serve", serve)
    operation = provision(site)
    assert operation["error"]["code"] == "not-leased", operation
    assert node(site)["state"] == "available"
    assert bench.world.nodes["n1"].nics["nic1"].history == []


def test_a_lease_that_ends_under_a_node_leaves_the_new_owner_alone(site: Site, bench: HilBench) -> None:
    provision(site)
    bench.world.take_away("n1", "blue")
    machine = bench.world.nodes["n1"]
    machine.nics["nic1"].networks = {"vlan/native": "blue-lan"}
    history = list(machine.nics["nic1"].history)
    found = node(site)
    assert (found["lease"], "bmi node deprovision n1" in found["problem"]) == ("ended", True)
    codes = [one["code"] for one in site.api.get("/v1/doctor?quick=true").json()["findings"]]
    assert codes == ["lease-ended"]
    converge(site.parts)
    kinds = [one["kind"] for one in site.api.get("/v1/nodes/n1/events").json()["items"]]
    assert "lease.ended" in kinds
    operation = deprovision(site)
    assert operation["state"] == "succeeded", operation
    converge(site.parts)
    assert machine.nics["nic1"].networks == {"vlan/native": "blue-lan"}
    assert machine.nics["nic1"].history == history
    assert (machine.on, machine.bootdev) == (True, "pxe")
    assert site.api.get("/v1/disks").json()["items"] == []


def killed(bench: HilBench, folder: Path, verb: str, path: str, body: dict[str, Any]) -> None:
    """Let a service of its own process ask for something, and die when HIL has taken an order."""
    script = Path(__file__).parents[2] / "hil" / "site.py"
    arguments = [str(folder), *map(json.dumps, (bench.changing, verb, path, body))]
    ended = subprocess.run(
        [sys.executable, "-m", "tests.hil.site", *arguments],
        cwd=script.parents[2],
        timeout=120,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr


def last(site: Site) -> dict[str, Any]:
    """Wait for the operation that was taken up, and return it."""
    newest = site.api.get("/v1/operations").json()["items"][-1]
    operation = site.api.get(f"/v1/operations/{newest['id']}", params={"wait": 30}).json()
    assert operation["ended_at"], operation
    return cast("dict[str, Any]", operation)
