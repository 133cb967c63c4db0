"""One disk in its life: it moves to other hardware, is destroyed, comes back, and grows. Four boots."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bmi.api.disks import Grow, Move, RollBack, SnapshotCreate
from bmi.api.nodes import Milestone, Provision
from bmi.api.operations import Operation
from bmi.client import Client, OperationFailed
from bmi.errors import BmiError
from tests.e2e.conftest import IMAGE, Measured, Site
from tests.e2e.ssh import Ssh, make_key

pytestmark = pytest.mark.timeout(1500)

BOOT = 400.0  # seconds that a boot up to the running operating system may take
OWN_TIME = (
    5.0  # seconds that BMI itself may take from the command to power-on; below one on a machine of its own
)
BMC_STEPS = {"look", "power off", "boot settings", "power on"}
"""Steps of a move that wait for management controllers."""


@dataclass(frozen=True)
class Tenant:
    """Somebody with a client and a key."""

    site: Site
    client: Client
    key: Path

    def done(self, operation: Operation) -> Operation:
        return self.client.operations.wait(operation.id, timeout=BOOT)

    def ssh(self, node: str) -> Ssh:
        network = self.client.networks.get("red-net").id
        return Ssh(self.client.nodes.get(node), self.key, self.site.lab.leg_namespaces()[str(network)])


@pytest.fixture
def tenant(site: Site, tmp_path: Path) -> Iterator[Tenant]:
    with site.lab.client(project="red") as client:
        yield Tenant(site, client, make_key(tmp_path))
        for image in ("good", "broken"):
            if any(found.name == image for found in client.images.list()):
                client.operations.wait(client.images.purge(image).id, timeout=60)


def test_a_disk_moves_is_rolled_back_and_grows(tenant: Tenant, measured: Measured) -> None:
    client, disks = tenant.client, tenant.client.disks
    request = Provision(
        image=IMAGE,
        network="red-net",
        hostname="web",
        ssh_keys=[tenant.key.with_suffix(".pub").read_text()],
    )
    disk = str(tenant.done(client.nodes.provision("n1", request)).result["disk"])
    first = tenant.ssh("n1")
    first.run("echo written on n1 > /root/file && sync")
    machine = first.run("cat /etc/machine-id")
    before = client.nodes.get("n1")
    tenant.done(disks.snapshot(disk, SnapshotCreate(name="good")))

    moved = timed(measured, "moved", lambda: tenant.done(disks.move(disk, Move(to="n2"))))

    for step in moved.steps:
        if step.ended_at is not None:
            print(f"  {step.name}: {(step.ended_at - step.started_at).total_seconds():.3f} s")
    own = until_power_on(moved) - bmc_time(moved)
    measured("command to power-on of the second node", until_power_on(moved))
    measured("without the time of the management controllers", own)
    assert own < OWN_TIME
    second, after = tenant.ssh("n2"), client.nodes.get("n2")
    assert second.run("cat /root/file") == "written on n1\n"
    assert (second.run("hostname").strip(), second.run("cat /etc/machine-id")) == ("web", machine)
    assert (after.address, sorted(after.ssh_host_keys)) == (before.address, sorted(before.ssh_host_keys))
    assert client.nodes.get("n1").state == "available"

    destroy(second)
    back = timed(
        measured,
        "rolled back, up again",
        lambda: tenant.done(disks.roll_back(disk, RollBack(image="good", keep="broken"))),
    )
    measured("command to power-on after a roll back", until_power_on(back))
    restored = tenant.ssh("n2")
    assert restored.run("cat /root/file") == "written on n1\n"
    assert restored.run("cat /etc/machine-id") == machine

    size = disks.get(disk).size
    assert sector_bytes(restored) == size
    with pytest.raises(OperationFailed, match="--restart"):
        client.operations.wait(disks.grow(disk, Grow(size=2 * size)).id, timeout=60)
    assert sector_bytes(restored) == size  # it was left alone
    tenant.done(disks.grow(disk, Grow(size=2 * size, restart=True, until=Milestone.UP)))
    grown = tenant.ssh("n2")
    assert sector_bytes(grown) == 2 * size
    assert grown.run("cat /root/file") == "written on n1\n"


def timed(measured: Measured, what: str, do: Any) -> Operation:
    begun = time.monotonic()
    ended: Operation = do()
    measured(what, time.monotonic() - begun)
    return ended


def until_power_on(operation: Operation) -> float:
    """Return the seconds from the command to the confirmed power of the node."""
    on = next(step for step in operation.steps if step.name == "power on")
    assert on.ended_at is not None
    return (on.ended_at - operation.created_at).total_seconds()


def bmc_time(operation: Operation) -> float:
    """Return the seconds of an operation in which management controllers were waited for."""
    return sum(
        (step.ended_at - step.started_at).total_seconds()
        for step in operation.steps
        if step.name in BMC_STEPS and step.ended_at is not None
    )


def destroy(ssh: Ssh) -> None:
    """Let a node wipe its own disk: partition table, boot loader, and the files."""
    ssh.run(
        "dd if=/dev/zero of=/dev/sda bs=1M count=8 conv=fsync status=none;"
        "rm -rf --one-file-system /boot /etc /home /opt /root /srv /usr /var; echo s > /proc/sysrq-trigger",
        timeout=300,
    )
    with gone():
        ssh.run("cat /root/file", timeout=15)


@contextmanager
def gone() -> Iterator[None]:
    """Insist that what is tried does not work any more."""
    with pytest.raises(BmiError):
        yield


def sector_bytes(ssh: Ssh) -> int:
    return int(ssh.run("cat /sys/block/sda/size")) * 512
