"""The lab as a whole: brought up, looked at, taken down again, whoever died in between."""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from bmi import netns, processes
from bmi.api.nodes import BmcCreate, Nic, NodeCreate
from bmi.client import Client
from bmi.client.errors import ClientError
from bmi.client.profile import Profile, save
from bmi.drivers import Site, load
from bmi.drivers.leg import Legs
from bmi.drivers.storage import Storage
from bmi.errors import BmiError, CommandFailed, InUse
from bmi.lab.bmc import Config, Controllers, Endpoint
from bmi.lab.layout import BMC_USERNAME, BRIDGE, SWITCH, LabNode, Layout, plan
from bmi.lab.node import VirtualNode
from bmi.lab.openvswitch import OpenVSwitch
from bmi.wait import wait_until

Tell = Callable[[str, float], None]
"""Called with what was done and the seconds that it took."""

_SERVICE_DEADLINE = 60.0  # seconds until the service answers; 2 s on an idle host
_RUN = Path("/run/bmi")  # where the service shows files to dnsmasq's user
_POOL_SIZE = "40G"  # of the storage pool; sparse, so it costs what is written


@dataclass(frozen=True)
class NodeStatus:
    """One node of the lab as it is."""

    node: LabNode
    on: bool


@dataclass(frozen=True)
class Status:
    """The lab as it is."""

    switch: bool
    controllers: bool
    service: bool
    nodes: tuple[NodeStatus, ...]


class Lab:
    """A virtual data centre: a switch, nodes with management controllers, and a BMI service of its own.

    Args:
        folder: Everything of it lies here, and nowhere else.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    @property
    def profile(self) -> Path:
        """The client's configuration file for the lab's service."""
        return self.folder / "client.toml"

    @property
    def layout(self) -> Layout | None:
        """What it consists of; None if there is no lab."""
        try:
            return Layout.model_validate_json(self._layout_file.read_text())
        except FileNotFoundError:
            return None

    def up(self, nodes: int, api_port: int, tell: Tell) -> Layout:
        """Bring the lab up, or complete one that is half up.

        Args:
            nodes: How many nodes it has.
            api_port: Port of its service on loopback.
            tell: Told what was done.

        Raises:
            InUse: There is a lab with another number of nodes.
            CommandFailed: A part did not start; the message has its last words.
        """
        layout = self._layout(nodes, api_port)
        switch = self._switch(layout)
        with _told(tell, f"switch: Open vSwitch in namespace {layout.namespace}"):
            switch.start()
            for node in layout.nodes:
                switch.add_tap(node.port)
        with _told(tell, f"BMCs: Redfish for {len(layout.nodes)} nodes"):
            self._controllers(layout).start()
        with _told(tell, f"service: {layout.api_url}"):
            self._start_service(layout, switch)
        with _told(tell, f"inventory: {', '.join(node.name for node in layout.nodes)}"):
            self._register(layout)
        return layout

    def down(self, tell: Tell) -> bool:
        """Take the lab down, with everything that it and its service made; say whether there was one.

        Raises:
            BmiError: Something would not go. Everything else is gone; it can be tried again.
        """
        if not self.folder.exists():
            return False
        failures: list[BmiError] = []
        for what, remove in self._removals():
            try:
                with _told(tell, what):
                    remove()
            except BmiError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        shutil.rmtree(self.folder)
        return True

    def _removals(self) -> list[tuple[str, Callable[[], None]]]:
        """What taking down consists of, in order."""
        layout = self.layout
        if layout is None:
            return []
        return [
            ("service ended", lambda: self._stop(self._service_record)),
            ("BMCs ended", lambda: _ignore(self._controllers(layout).stop())),
            ("nodes switched off", lambda: self._switch_off(layout)),
            ("targets and DHCP servers ended", self._end_daemons),
            ("networks removed", lambda: self._remove_legs(layout)),
            ("storage dismantled", self._dismantle_storage),
            ("switch removed", self._switch(layout).stop),
        ]

    def status(self) -> Status:
        """Look at every part.

        Raises:
            InUse: There is no lab.
        """
        layout = self.require()
        machines = self._machines(layout)
        return Status(
            switch=self._switch(layout).alive(),
            controllers=self._controllers(layout).process is not None,
            service=processes.recorded(self._service_record) is not None,
            nodes=tuple(
                NodeStatus(node, machine.is_on())
                for node, machine in zip(layout.nodes, machines, strict=True)
            ),
        )

    def machine(self, name: str) -> VirtualNode:
        """Return a node's machine, by name.

        Raises:
            InUse: There is no lab, or it has no such node.
        """
        layout = self.require()
        for machine in self._machines(layout):
            if machine.spec.name == name:
                return machine
        names = ", ".join(node.name for node in layout.nodes)
        raise InUse(f"the lab has no node {name}", next_step=f"its nodes are: {names}")

    def client(self, project: str | None = None) -> Client:
        """Return a client of the lab's service, as its first admin."""
        return Client(self.require().api_url, self._admin_token(), project=project)

    def leg_namespaces(self) -> dict[str, str]:
        """Return the namespaces of the gateway's legs, by network id."""
        layout = self.require()
        legs = self._legs(layout)
        try:
            return {str(leg.network): leg.namespace for leg in legs.legs()}
        finally:
            legs.close()

    def service_process(self) -> processes.Process | None:
        """Return the service's process, if it runs."""
        return processes.recorded(self._service_record)

    def start_service(self) -> None:
        """Start the service again, after somebody ended it."""
        layout = self.require()
        self._start_service(layout, self._switch(layout))

    def require(self) -> Layout:
        """Return what the lab consists of.

        Raises:
            InUse: There is no lab.
        """
        layout = self.layout
        if layout is None:
            raise InUse(f"there is no lab in {self.folder}", next_step="bring one up: bmi lab up")
        return layout

    def _layout(self, nodes: int, api_port: int) -> Layout:
        layout = self.layout
        if layout is None:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            layout = plan(nodes, api_port)
            layout.save(self._layout_file)
        elif len(layout.nodes) != nodes:
            raise InUse(
                f"there is a lab with {len(layout.nodes)} nodes in {self.folder}",
                next_step="use it as it is, or take it down first: bmi lab down",
            )
        return layout

    def _switch(self, layout: Layout) -> OpenVSwitch:
        return OpenVSwitch(self.folder / "ovs", layout.namespace, BRIDGE)

    def _controllers(self, layout: Layout) -> Controllers:
        endpoints = tuple(
            Endpoint(node.spec(layout.namespace), node.bmc_port, BMC_USERNAME, node.bmc_password)
            for node in layout.nodes
        )
        return Controllers(Config(self.folder / "nodes", endpoints), self.folder / "bmc")

    def _machines(self, layout: Layout) -> list[VirtualNode]:
        return [
            VirtualNode(node.spec(layout.namespace), self.folder / "nodes" / node.name)
            for node in layout.nodes
        ]

    def _start_service(self, layout: Layout, switch: OpenVSwitch) -> None:
        if processes.recorded(self._service_record) is None:
            settings = self.folder / "bmi.toml"
            settings.write_text(_settings(layout, switch, self._state))
            processes.start(
                [sys.executable, "-m", "bmi.cli", "serve", "--config", settings],
                record=self._service_record,
                log=self._service_log,
            )
        client = Client(layout.api_url)
        wait_until(
            lambda: self._answers(client),
            deadline=_SERVICE_DEADLINE,
            what="the service to answer",
            next_step=f"look at {self._service_log}",
        )
        client.close()
        save(Profile(url=layout.api_url, token=self._admin_token()), self.profile)

    def _answers(self, client: Client) -> bool:
        if processes.recorded(self._service_record) is None:
            words = self._service_log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise CommandFailed(
                f"the service ended at once: {words[-1]}",
                next_step=f"mend that; its log is {self._service_log}",
            )
        try:
            client.version()
        except ClientError:
            return False
        return True

    def _register(self, layout: Layout) -> None:
        bmcs = self._controllers(layout).bmcs()
        with self.client() as client:
            known = {node.name for node in client.nodes.list()}
            for node in layout.nodes:
                if node.name not in known:
                    bmc = bmcs[node.name]
                    client.nodes.register(
                        NodeCreate(
                            name=node.name,
                            bmc=BmcCreate.model_validate(
                                {
                                    "address": bmc.address,
                                    "username": bmc.username,
                                    "password": bmc.password,
                                    "options": dict(bmc.options),
                                }
                            ),
                            nics=[Nic(mac=node.mac, switch=SWITCH, port=node.port)],
                        )
                    )

    def _switch_off(self, layout: Layout) -> None:
        for node in self._machines(layout):
            node.power_off()

    def _end_daemons(self) -> None:
        for process in processes.recorded_below(self._state):
            process.stop(kill=True)
        self._remove_run_files()

    def _remove_legs(self, layout: Layout) -> None:
        site = self._site()
        if site is None:
            return
        if self._switch(layout).alive():
            legs = self._legs(layout)
            for leg in list(legs.legs()):
                legs.down(leg.network)
            legs.close()
        # The switch may be dead, and its ports go with it; namespaces would stay.
        for name in netns.names():
            if name.startswith(f"bmi-{site.installation}-"):
                netns.delete(name)

    def _remove_run_files(self) -> None:
        if site := self._site():
            shutil.rmtree(_RUN / site.installation, ignore_errors=True)
            with suppress(OSError):  # another installation's files are there, or it is gone
                _RUN.rmdir()

    def _legs(self, layout: Layout) -> Legs:
        site = self._site()
        if site is None:
            raise InUse("the lab's service has never run", next_step="bring the lab up: bmi lab up")
        options = {"database": self._switch(layout).db, "bridge": BRIDGE, "namespace": layout.namespace}
        legs: Legs = load("leg", "ovs", options, site)
        return legs

    def _dismantle_storage(self) -> None:
        if site := self._site():
            storage: Storage = load("storage", "local", {"pool_size": _POOL_SIZE}, site)
            storage.dismantle()

    def _site(self) -> Site | None:
        try:
            return Site(self._state, (self._state / "installation").read_text().strip())
        except FileNotFoundError:
            return None

    def _stop(self, record: Path) -> None:
        if process := processes.recorded(record):
            process.stop()

    def _admin_token(self) -> str:
        return (self._state / "admin.token").read_text().strip()

    @property
    def _layout_file(self) -> Path:
        return self.folder / "lab.json"

    @property
    def _state(self) -> Path:
        return self.folder / "service"

    @property
    def _service_record(self) -> Path:
        return self.folder / "service.json"

    @property
    def _service_log(self) -> Path:
        return self.folder / "service.log"


def _settings(layout: Layout, switch: OpenVSwitch, state: Path) -> str:
    return f"""\
state_dir = "{state}"

[api]
port = {layout.api_port}

[storage]
driver = "local"
options = {{ pool_size = "{_POOL_SIZE}" }}

[leg]
driver = "ovs"
options = {{ database = "{switch.db}", bridge = "{BRIDGE}", namespace = "{layout.namespace}" }}

[switches.{SWITCH}]
driver = "ovs"
options = {{ database = "{switch.db}", bridge = "{BRIDGE}" }}
"""


def _ignore(_: object) -> None:
    """Drop what a verb found: done or already done is the same here."""


@contextmanager
def _told(tell: Tell, what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    tell(what, time.monotonic() - begun)
