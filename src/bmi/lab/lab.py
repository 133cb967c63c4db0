"""The lab as a whole: brought up, looked at, taken down again, whoever died in between."""

import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bmi import processes
from bmi.api.nodes import BmcCreate, Nic, NodeCreate
from bmi.client import Client
from bmi.client.profile import Profile, save
from bmi.errors import BmiError, InUse
from bmi.lab.bmc import Config, Controllers, Endpoint
from bmi.lab.layout import BMC_USERNAME, BRIDGE, SWITCH, LabNode, Layout, Store, plan
from bmi.lab.node import VirtualNode
from bmi.lab.openvswitch import OpenVSwitch
from bmi.lab.service import Service, service_user

Tell = Callable[[str, float], None]
"""Called with what was done and the seconds that it took."""


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

    def up(self, nodes: int, api_port: int, tell: Tell, store: Store = Store.LOCAL) -> Layout:
        """Bring the lab up, or complete one that is half up.

        Args:
            nodes: How many nodes it has.
            api_port: Port of its service on loopback.
            tell: Told what was done.
            store: What keeps images and disks; one that is half up keeps what it has.

        Raises:
            InUse: There is a lab with another number of nodes.
            CommandFailed: A part did not start; the message has its last words.
        """
        layout = self._layout(nodes, api_port, store)
        switch = self._switch(layout)
        with _told(tell, f"switch: Open vSwitch in namespace {layout.namespace}"):
            switch.start()
            for node in layout.nodes:
                for nic in node.nics:
                    switch.add_tap(nic.tap)
        with _told(tell, f"BMCs: Redfish for {len(layout.nodes)} nodes"):
            self._controllers(layout).start()
        service = self._service(layout)
        if layout.store is Store.CEPH:
            with _told(tell, "engines: Ceph and PostgreSQL"):
                service.start_engines()
        members = ", ".join(member.name for member in service.members)
        with _told(tell, f"service: {layout.api_url}, {members}, as user {layout.user or 'root'}"):
            self._start_service(layout)
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
        service = self._service(layout)
        return [
            ("service ended", service.stop),
            ("BMCs ended", lambda: _ignore(self._controllers(layout).stop())),
            ("nodes switched off", lambda: self._switch_off(layout)),
            ("targets and DHCP servers ended", service.end_daemons),
            ("networks removed", service.remove_legs),
            ("storage removed", service.remove_engines),
            ("switch removed", self._switch(layout).stop),
        ]

    def status(self) -> Status:
        """Look at every part.

        Raises:
            InUse: There is no lab.
        """
        layout = self.require()
        service = self._service(layout)
        machines = self._machines(layout)
        return Status(
            switch=self._switch(layout).alive(),
            controllers=self._controllers(layout).process is not None,
            service=all(service.process(member.name) for member in service.members),
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
        return Client(self.require().api_url, self.service.admin_token, project=project)

    def leg_namespaces(self) -> dict[str, str]:
        """Return the namespaces of a gateway's legs, by network id."""
        return self.service.leg_namespaces()

    @property
    def service(self) -> Service:
        """The processes of BMI.

        Raises:
            InUse: There is no lab.
        """
        return self._service(self.require())

    @property
    def switch(self) -> OpenVSwitch:
        """The switch.

        Raises:
            InUse: There is no lab.
        """
        return self._switch(self.require())

    def service_process(self) -> processes.Process | None:
        """Return the process that has the API, if it runs."""
        return self.service.process(self.service.members[0].name)

    def start_service(self) -> None:
        """Start the service again, after somebody ended it."""
        self._start_service(self.require())

    def require(self) -> Layout:
        """Return what the lab consists of.

        Raises:
            InUse: There is no lab.
        """
        layout = self.layout
        if layout is None:
            raise InUse(f"there is no lab in {self.folder}", next_step="bring one up: bmi lab up")
        return layout

    def _layout(self, nodes: int, api_port: int, store: Store) -> Layout:
        layout = self.layout
        if layout is None:
            # Others may pass through: PostgreSQL, and the service itself, run as users of their own.
            self.folder.mkdir(mode=0o711, parents=True, exist_ok=True)
            layout = plan(nodes, api_port, store, service_user(self.folder))
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

    def _service(self, layout: Layout) -> Service:
        return Service(self.folder, layout, self._switch(layout))

    def _start_service(self, layout: Layout) -> None:
        service = self._service(layout)
        service.start()
        save(Profile(url=layout.api_url, token=service.admin_token), self.profile)

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
                            nics=[Nic(mac=nic.mac, switch=SWITCH, port=nic.tap) for nic in node.nics],
                        )
                    )

    def _switch_off(self, layout: Layout) -> None:
        for node in self._machines(layout):
            node.power_off()

    @property
    def _layout_file(self) -> Path:
        return self.folder / "lab.json"


def _ignore(_: object) -> None:
    """Drop what a verb found: done or already done is the same here."""


@contextmanager
def _told(tell: Tell, what: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    tell(what, time.monotonic() - begun)
