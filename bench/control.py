"""What BMI adds to the firmware's time, on the lab's real parts. One JSON object a line.

make bench PART=control
"""

import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

from bench.output import emit, report
from bmi.api.access import ProjectCreate
from bmi.api.disks import DiskCreate, SnapshotCreate
from bmi.api.images import ImageBuild
from bmi.api.networks import NetworkCreate
from bmi.api.nodes import Deprovision, Milestone, Provision
from bmi.api.operations import Operation
from bmi.client import Client
from bmi.drivers import Site, load
from bmi.lab.lab import Lab

ROUNDS = 7
SMALL, LARGE = 2 * 1024**3, 20 * 1024**3
BOOT_DEADLINE = 600.0  # seconds


def main() -> int:
    """Run all measurements on a lab of their own."""
    folder = Path(tempfile.mkdtemp(prefix="bmi-bench-"))
    lab = Lab(folder / "lab")
    try:
        lab.up(3, free_port(), lambda what, seconds: None)
        with lab.client(project="bench") as client:
            prepare(client)
            measure_provisions(client)
            measure_sizes(client)
            measure_running_node(lab, client)
    finally:
        lab.down(lambda what, seconds: None)
        shutil.rmtree(folder)
    return 0


def prepare(client: Client) -> None:
    client.projects.create(ProjectCreate(name="bench"))
    wait(client, client.networks.create(NetworkCreate(name="net", project="bench")))
    wait(client, client.images.build(ImageBuild(name="small", size=SMALL)))
    # The same content with more room: a larger clone, frozen.
    wait(client, client.disks.create(DiskCreate(name="large", image="small", project="bench", size=LARGE)))
    wait(client, client.disks.snapshot("large", SnapshotCreate(name="large")))


def measure_provisions(client: Client) -> None:
    provision_all(client, ["n1"], "small")  # the first one warms connections up
    one, three, down = [], [], []
    for _ in range(ROUNDS):
        one += provision_all(client, ["n1"], "small", down)
        three.append(max(provision_all(client, ["n1", "n2", "n3"], "small", down)))
    report("provision, accepted to power-on confirmed, one node", one, "s")
    report("provision, accepted to power-on confirmed, slowest of three at once", three, "s")
    report("deprovision without the BMC's time", down, "s")


def measure_sizes(client: Client) -> None:
    small: list[float] = []
    large: list[float] = []
    for _ in range(ROUNDS):
        small += provision_all(client, ["n1"], "small")
        large += provision_all(client, ["n1"], "large")
    report("provision of a 2 GiB image", small, "s")
    report("provision of a 20 GiB image with the same content", large, "s")
    ratio = statistics.median(large) / statistics.median(small)
    emit("provision, 20 GiB to 2 GiB", ratio, "ratio")


def measure_running_node(lab: Lab, client: Client) -> None:
    """Boot a node, count what it reads, and take snapshots of it while it runs."""
    begun = time.monotonic()
    operation = provision(client, "n1", "small", Milestone.UP)
    emit("boot, power-on to operating system up, one node alone", time.monotonic() - begun, "s")
    image = client.images.get("small")
    read = bytes_read(lab)
    emit("bytes read over iSCSI until up", read, "B")
    emit("bytes read until up, to the image's size", read / image.size, "ratio")
    emit(
        "bytes read until up, to the image's content", read / (image.usage.own + image.usage.shared), "ratio"
    )
    disk = str(operation.result["disk"])
    taken = []
    for number in range(ROUNDS):
        frozen = wait(client, client.disks.snapshot(disk, SnapshotCreate(name=f"shot{number}")))
        taken.append(seconds(frozen.created_at, frozen.ended_at))
    report("snapshot of a running node's disk, accepted to done", taken, "s")
    deprovision(client, "n1")


def provision_all(
    client: Client, nodes: Sequence[str], image: str, down: list[float] | None = None
) -> list[float]:
    """Provision nodes at once, give them back, and return the seconds until each one's power-on was confirmed."""
    with ThreadPoolExecutor(len(nodes)) as pool:
        operations = list(pool.map(lambda node: provision(client, node, image, Milestone.POWER), nodes))
        given_back = list(pool.map(lambda node: deprovision(client, node), nodes))
    if down is not None and len(nodes) == 1:
        down += [
            seconds(operation.created_at, operation.ended_at) - step_seconds(operation, "power off")
            for operation in given_back
        ]
    return [seconds(operation.created_at, step(operation, "power on").ended_at) for operation in operations]


def provision(client: Client, node: str, image: str, until: Milestone) -> Operation:
    request = Provision(image=image, network="net", project="bench", until=until, deadline=BOOT_DEADLINE)
    return wait(client, client.nodes.provision(node, request))


def deprovision(client: Client, node: str) -> Operation:
    return wait(client, client.nodes.deprovision(node, Deprovision()))


def bytes_read(lab: Lab) -> int:
    """Return what tgtd has read for its initiators; tests check it against a known read."""
    state = lab.folder / "service"
    target: Any = load("target", "tgt", {}, Site(state, (state / "mark").read_text().strip()))
    return sum(int(target.bytes_read(portal)) for portal in target.portals())


def wait(client: Client, operation: Operation) -> Operation:
    return client.operations.wait(operation.id)


def step(operation: Operation, name: str) -> Any:
    return next(entry for entry in operation.steps if entry.name == name)


def step_seconds(operation: Operation, name: str) -> float:
    return seconds(step(operation, name).started_at, step(operation, name).ended_at)


def seconds(begun: datetime, ended: datetime | None) -> float:
    assert ended is not None
    return (ended - begun).total_seconds()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main())
