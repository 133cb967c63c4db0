"""A node that changes its project: what its controller, read behind BMI's back, knows of the one before.

The controllers are the lab's, with real machines behind them; everything else of the service is on memory drivers.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import requests

from bmi.boot.models import Boot
from bmi.boot.service import boot_token
from bmi.drivers.power import Bmc
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.lab.node import VirtualNode
from bmi.lab.testing import controllers, power_only
from tests.databases import sqlite
from tests.service import Site, memory_parts, memory_settings, serving

NOTHING_CHOSEN = ("Disabled", "None")


@dataclass(frozen=True)
class World:
    site: Site
    bmc: Bmc
    machine: VirtualNode

    @property
    def system(self) -> str:
        return f"{self.bmc.address}/redfish/v1/Systems/{self.machine.spec.id}"

    def asked(self, method: str, url: str, body: Any = None) -> Any:
        """Talk to the controller as a stranger who has its password."""
        login = (self.bmc.username, self.bmc.password)
        answer = requests.request(method, url, json=body, auth=login, timeout=10)
        assert answer.ok, answer.text
        return answer.json() if answer.content else None

    def override(self) -> tuple[str, str]:
        boot = self.asked("GET", self.system)["Boot"]
        return boot["BootSourceOverrideEnabled"], boot["BootSourceOverrideTarget"]

    def inserted(self) -> bool:
        return bool(self.asked("GET", f"{self.system}/VirtualMedia/Cd")["Inserted"])

    def tamper(self, image: str) -> None:
        """Leave something behind, as root on a node can through its host interface."""
        wanted = {"BootSourceOverrideTarget": "Hdd", "BootSourceOverrideEnabled": "Continuous"}
        self.asked("PATCH", self.system, {"Boot": wanted})
        insert = f"{self.system}/VirtualMedia/Cd/Actions/VirtualMedia.InsertMedia"
        self.asked("POST", insert, {"Image": image})
        assert (self.override(), self.inserted()) == (("Continuous", "Hdd"), True)

    def secrets(self) -> tuple[str, str]:
        parts = self.site.parts
        with parts.db.read() as session:
            record = session.query(Boot).one()
            return parts.vault.open(record.chap_secret), boot_token(parts, record.id)

    def must(self, path: str, **body: Any) -> None:
        operation = self.site.ended(self.site.api.post(path, json=body))
        assert operation["state"] == "succeeded", operation


@pytest.fixture
def world() -> Iterator[World]:
    folder = Path(tempfile.mkdtemp(prefix="bmi-over-"))  # short, for Unix sockets
    try:
        settings = memory_settings(folder, sqlite(folder / "state" / "bmi.db"), power={"redfish": {}})
        with (
            controllers(folder, power_only(1)) as served,
            memory_parts(settings) as parts,
            serving(parts, settings) as api,
        ):
            site = Site(api, parts, folder)
            (bmc,) = served.bmcs().values()
            for project in ("red", "blue"):
                site.project(project)
                site.network("net", project)
            site.image("golden")
            node = {
                "name": "n1",
                "bmc": {
                    "driver": "redfish",
                    "address": bmc.address,
                    "username": bmc.username,
                    "password": bmc.password,
                },
                "nics": [{"mac": "52:54:00:00:00:01", "switch": "sw1", "port": "port1"}],
            }
            assert api.post("/v1/nodes", json=node).status_code == 201
            yield World(site, bmc, served.config.nodes()[0])
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[str]:
    """An image that a controller can fetch."""
    (tmp_path / "mine.iso").write_bytes(b"an image")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/mine.iso"
        finally:
            server.shutdown()
            thread.join()


def test_nothing_of_a_project_is_left_when_its_node_goes_to_another(world: World, image: str) -> None:
    parts, api = world.site.parts, world.site.api
    known: list[str] = []
    for project in ("red", "blue", "red"):
        world.must("/v1/nodes/n1/provision", image="golden", network="net", project=project, until="power")
        vlan = api.get(f"/v1/networks/net?project={project}").json()["vlan"]
        assert parts.switches["sw1"].port("port1").vlans == PortVlans(vlan)
        assert (world.override(), world.inserted()) == (("Continuous", "Pxe"), False)
        assert world.machine.is_on()
        known += world.secrets()
        world.tamper(image)

        world.must("/v1/nodes/n1/deprovision")

        assert not world.machine.is_on()
        assert (world.override(), world.inserted()) == (NOTHING_CHOSEN, False)
        assert parts.switches["sw1"].port("port1").vlans == ISOLATED
        assert [list(parts.gateway.target.exports(portal)) for portal in parts.gateway.target.portals()] == []
        assert api.get("/v1/nodes/n1").json()["project"] is None
    assert len(set(known)) == 6  # two secrets for each time, none of them twice
