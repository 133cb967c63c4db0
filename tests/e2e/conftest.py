"""A lab with a golden image, for all tests of a session; they leave it as they found it."""

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from bmi.api.doctor import Report
from bmi.lab.ipmi import IpmiController
from bmi.lab.lab import Lab
from bmi.processes import Process

BUILD_DEADLINE = 600.0  # seconds
IMAGE = "debian-12"
NETWORK = "red-net"
EMPTY = {"disks", "seeds", "exports", "sessions", "target_servers", "leases", "ports_in_use"}
"""What must not exist while no node is provisioned."""

Measured = Callable[[str, float], None]
"""Takes what was measured, and the seconds."""


@dataclass(frozen=True)
class Done:
    """How a `bmi` command ended."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Site:
    """The lab, and a person with the command line."""

    lab: Lab

    def bmi(self, *words: str, timeout: float = 120) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "bmi.cli", *words],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**os.environ, "BMI_CLIENT_CONFIG": str(self.lab.profile), "BMI_PROJECT": "red"},
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def must(self, *words: str, timeout: float = 120) -> str:
        done = self.bmi(*words, timeout=timeout)
        assert done.status == 0, done.err
        return done.out

    def ask(self, *words: str) -> Any:
        return json.loads(self.must(*words, "--json"))

    def leftovers(self) -> dict[str, int]:
        """What exists although no node is provisioned, and everything that differs from the database."""
        report = Report.model_validate_json(self.bmi("doctor", "--quick", "--json").out)
        left = {
            name: count for name, count in report.inventory.model_dump().items() if name in EMPTY and count
        }
        return left | {finding.thing: 1 for finding in report.errors}

    def deprovision_all(self) -> None:
        with self.lab.client() as client:
            nodes = [node.name for node in client.nodes.list() if node.state != "available"]
            asked = [client.nodes.deprovision(node) for node in nodes]  # side by side
            for operation in asked:
                ended = client.operations.wait(operation.id, timeout=120)
                assert ended.state == "succeeded", ended
            for network in client.networks.list():
                if network.name != NETWORK:  # each has daemons of its own, which other tests count
                    client.operations.wait(client.networks.delete(network.id).id, timeout=120)


@pytest.fixture(scope="session")
def site() -> Iterator[Site]:
    # Unix sockets have short paths; pytest's own folders are long.
    folder = Path(tempfile.mkdtemp(prefix="bmi-e2e-"))
    folder.chmod(0o711)  # the service is not root
    lab = Lab(folder / "lab")
    try:
        lab.up(3, free_port(), lambda what, seconds: None)
        site = Site(lab)
        site.must("project", "create", "red")
        site.must("network", "create", NETWORK)
        site.must("image", "build", "debian", "--name", IMAGE, timeout=BUILD_DEADLINE)
        yield site
    finally:
        lab.down(lambda what, seconds: None)
        shutil.rmtree(folder)


@pytest.fixture
def measured(record_property: Callable[[str, object], None]) -> Measured:
    """Say how many seconds something took, in the output and in the report of the run."""

    def say(what: str, seconds: float) -> None:
        print(f"{what}: {seconds:.1f} s")
        record_property(what, round(seconds, 1))

    return say


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test that used the lab: all nodes are given back, and nothing is left."""
    yield
    if "site" in request.fixturenames:
        site: Site = request.getfixturevalue("site")
        site.deprovision_all()
        assert site.leftovers() == {}


@contextmanager
def with_ipmi(site: Site, name: str, folder: Path, **changes: Any) -> Iterator[None]:
    """Give a node an IPMI controller, and let that be the one that BMI knows.

    Args:
        site: The lab.
        name: The node.
        folder: For the controller's files.
        changes: What the machine that it switches has other than the lab's, by the fields of `NodeSpec`.
    """
    before, machine = site.ask("node", "show", name), site.lab.machine(name)
    lab_node = next(node for node in site.lab.require().nodes if node.name == name)
    username, word = "operator", "sesame-and-so-on"
    spec = replace(machine.spec, **changes)
    controller = IpmiController(spec, machine.folder, folder / "ipmi", free_port(), username, word)
    password, old = folder / "pw", folder / "old"
    password.write_text(word)
    old.write_text(lab_node.bmc_password)
    nic = before["nics"][0]
    card = f"{nic['mac']}={nic['switch']}:{nic['port']}"
    controller.start()
    try:
        site.must("node", "delete", name)
        site.must(
            *("node", "register", name, "--bmc-driver", "ipmi", "--bmc-address", controller.address),
            *("--bmc-user", username, "--bmc-password-file", str(password), "--nic", card),
        )
        yield
    finally:
        controller.stop()
        site.must("node", "delete", name)
        bmc = before["bmc"]
        site.must(
            *("node", "register", name, "--bmc-address", bmc["address"], "--bmc-user", bmc["username"]),
            *("--bmc-password-file", str(old), "--nic", card),
        )


def is_of(process: Process, program: str) -> bool:
    """Say whether a process is one of a program, as of tgtd and not of the forwarder before it."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).name() == program
    return False


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
