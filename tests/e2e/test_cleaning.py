"""A node's own disk is wiped before the next tenant gets the node: the image that does it is built, and boots."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.lab.node import scratch
from bmi.wait import wait_until
from tests.e2e.conftest import BUILD_DEADLINE, IMAGE, Measured, Site

pytestmark = pytest.mark.timeout(1200)

CLEANED = 500.0  # seconds until a node has booted, wiped its disk, and was given back
SETTINGS = {"BMI_CLEANING__IMAGE": "cleaner", "BMI_CONVERGENCE_INTERVAL": "2"}


@pytest.fixture
def wiping(site: Site, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The lab's service wipes disks, for as long as the test runs."""
    site.must("project", "create", "cleaning")
    site.must("network", "create", "cleaning", "--project", "cleaning")
    site.must(
        "image",
        "build",
        "debian",
        "--cleaner",
        "--name",
        "cleaner",
        "--project",
        "cleaning",
        timeout=BUILD_DEADLINE,
    )
    with monkeypatch.context() as patch:
        for name, value in SETTINGS.items():
            patch.setenv(name, value)
        restart(site)
        yield
    restart(site)
    site.must("network", "delete", "cleaning", "--project", "cleaning")
    site.must("image", "delete", "cleaner", "--now", "--project", "cleaning")
    site.must("project", "delete", "cleaning")


def restart(site: Site) -> None:
    process = site.lab.service_process()
    assert process is not None
    process.stop()
    site.lab.start_service()


def test_what_a_tenant_left_on_a_nodes_disk_is_gone(site: Site, wiping: None, measured: Measured) -> None:
    disk = scratch(site.lab.machine("n1").folder)
    site.must("node", "provision", "n1", "--image", IMAGE, "--network", "red-net", "--until", "power")
    secret = os.urandom(1 << 20)
    write(disk, secret)
    site.must("node", "deprovision", "n1")
    assert site.ask("node", "show", "n1")["state"] in ("cleaning", "available")

    begun = time.monotonic()
    wait_until(
        lambda: site.ask("node", "show", "n1")["state"] not in ("cleaning",),
        deadline=CLEANED,
        what="the node to be clean",
        next_step="look at its console",
        poll=1,
    )
    measured("wiped and given back", time.monotonic() - begun)
    found = site.ask("node", "show", "n1")
    assert (found["state"], found["problem"]) == ("available", None)
    assert disk.read_bytes() == bytes(disk.stat().st_size)
    with site.lab.client() as client:
        done = [found for found in client.operations.list() if found.verb == "node.clean"]
    report = {step.name: step.detail for step in done[-1].steps}["report"]
    assert report.startswith("vda 96M")
    assert report.endswith("scratch: overwritten with zeros")


def write(disk: Path, secret: bytes) -> None:
    """Write where file systems begin, in the middle, and at the very end."""
    size = disk.stat().st_size
    with disk.open("r+b") as file:
        for offset in (0, size // 3, size - len(secret)):
            file.seek(offset)
            file.write(secret)
