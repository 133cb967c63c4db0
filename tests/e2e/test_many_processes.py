"""Several processes on Ceph and PostgreSQL: workers, gateways and engines die in the middle of real work."""

import itertools
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import rados
import rbd

from bmi.api.access import ProjectCreate
from bmi.api.images import ImageAdopt, ImageBuild
from bmi.api.networks import NetworkCreate
from bmi.api.nodes import Deprovision, Milestone, PowerRequest, Provision
from bmi.api.operations import Operation
from bmi.client import Client
from bmi.gateways.service import LEASE
from bmi.lab.lab import Lab
from bmi.lab.layout import Store
from bmi.wait import wait_until
from tests.e2e.conftest import BUILD_DEADLINE, EMPTY, Measured, free_port
from tests.e2e.ssh import Ssh, make_key

pytestmark = pytest.mark.timeout(1500)

NODES = 20
DEADLINE = 600.0  # seconds until an operation has ended, whatever died
OSD_AWAY = 15.0  # seconds until somebody has started the OSD again
ISCSI_TIMEOUT = 120.0  # seconds; how long open-iscsi waits for a session to come back (replacement_timeout)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    # Unix sockets have short paths; pytest's own folders are long. Other users than root have to pass.
    folder = Path(tempfile.mkdtemp(prefix="bmi-many-"))
    folder.chmod(0o711)  # the service is not root
    lab = Lab(folder / "lab")
    try:
        lab.up(NODES, free_port(), lambda what, seconds: None, Store.CEPH)
        with lab.client(project="red") as client:
            client.projects.create(ProjectCreate(name="red"))
            wait(client, client.networks.create(NetworkCreate(name="net", project="red")))
            # Nodes that find nothing to boot on it ask again every few seconds, which costs next to nothing.
            make_blank(lab, "blank")
            wait(client, client.images.adopt(ImageAdopt(name="blank", source="blank")))
        yield lab
    finally:
        lab.down(lambda what, seconds: None)
        shutil.rmtree(folder)


@pytest.fixture
def client(lab: Lab) -> Iterator[Client]:
    """A client; at the end every process runs, everything is given back, and nothing is left."""
    with lab.client(project="red") as client:
        yield client
        start_all(lab)
        give_back(client, [node.name for node in client.nodes.list() if node.state != "available"])
        wait_until(  # a gateway that has just got its place back makes its legs anew
            lambda: leftovers(client) == {},
            deadline=60,
            what="everything to be gone",
            next_step="look at what bmi doctor says",
        )


def make_blank(lab: Lab, name: str) -> None:
    """Put an image of nothing but zeros into the pool, as an operator would who has other images there."""
    ceph = lab.service.ceph
    with (
        rados.Rados(rados_id="admin", conffile=str(ceph.conf)) as cluster,
        cluster.open_ioctx(ceph.pool) as pool,
    ):
        rbd.RBD().create(pool, name, 64 << 20)


def wait(client: Client, operation: Operation) -> Operation:
    ended = client.operations.wait(operation.id, timeout=DEADLINE)
    assert ended.state == "succeeded", ended
    return ended


def provision_all(client: Client, nodes: Sequence[str], image: str = "blank") -> list[Operation]:
    request = Provision(image=image, network="net", project="red", until=Milestone.POWER)
    with ThreadPoolExecutor(NODES) as pool:
        return list(pool.map(lambda node: client.nodes.provision(node, request), nodes))


def give_back(client: Client, nodes: Sequence[str]) -> None:
    asked = [client.nodes.deprovision(node, Deprovision()) for node in nodes]
    for operation in asked:
        wait(client, operation)


def leftovers(client: Client) -> dict[str, int]:
    report = client.doctor(quick=True)
    left = {name: count for name, count in report.inventory.model_dump().items() if name in EMPTY and count}
    return left | {finding.thing: 1 for finding in report.errors}


def start_all(lab: Lab) -> None:
    """Start what a test ended, and wait until every gateway acts for itself."""
    service = lab.service
    service.postgres.start()
    service.ceph.start("mon")
    service.ceph.start("osd.0")
    service.start()
    with lab.client() as client:
        wait_until(
            lambda: all(member.alive and not member.acted_for_by for member in client.members.list()),
            deadline=180,
            what="every gateway to act for itself",
            next_step="look at the gateways' logs",
        )


def kill(lab: Lab, name: str) -> None:
    process = lab.service.process(name)
    assert process is not None
    process.stop(kill=True)


def test_a_worker_and_a_gateway_die_in_the_middle_of_twenty_provisions(lab: Lab, client: Client) -> None:
    nodes = [node.name for node in client.nodes.list()]
    assert len(nodes) == NODES

    asked = provision_all(client, nodes)
    wait_until(  # the middle: some have got as far as their disk, none has ended
        lambda: any(
            step.name == "seed" for operation in asked for step in client.operations.get(operation.id).steps
        ),
        deadline=180,
        what="the first disks",
        next_step="look at the workers' logs",
    )
    begun = time.monotonic()
    kill(lab, "worker1")
    kill(lab, "gateway1")

    ended = [client.operations.wait(operation.id, timeout=DEADLINE) for operation in asked]
    print(f"all ended {time.monotonic() - begun:.1f} s after a worker and a gateway were killed")
    assert Counter(operation.state for operation in ended) == {"succeeded": NODES}, ended
    assert {node.state for node in client.nodes.list()} == {"active"}
    for operation in [client.nodes.set_power(node, PowerRequest(action="off")) for node in nodes]:
        wait(client, operation)  # twenty emulated firmwares leave no processor to the rest of the test
    report = client.doctor(quick=True)
    assert report.errors == []
    counted = report.inventory
    assert (counted.disks, counted.seeds, counted.exports, counted.ports_in_use) == (NODES,) * 4

    # The dead gateway comes back to where it left its servers: each export is served once, by one of the two.
    begun = time.monotonic()
    start_all(lab)
    wait_until(
        lambda: client.doctor(quick=True).errors == [],
        deadline=180,
        what="everything to be as it should",
        next_step="look at the gateways' logs",
    )
    print(f"the dead ones were back {time.monotonic() - begun:.1f} s after they were started")
    assert client.doctor(quick=True).inventory.exports == NODES


def test_monitor_killed_and_started_again_during_provisions(
    lab: Lab, client: Client, measured: Measured
) -> None:
    nodes = [f"n{number}" for number in range(1, 7)]
    lab.service.ceph.kill("mon")
    asked = provision_all(client, nodes)
    wait_until(
        lambda: all(told(client, operation) for operation in asked),
        deadline=120,
        what="an event in each operation that says what it waits for",
        next_step="look at the workers' logs",
    )
    print(*{line for operation in asked for line in told(client, operation)}, sep="\n")
    assert {client.operations.get(operation.id).state for operation in asked} == {"running"}

    lab.service.ceph.start("mon")
    begun = time.monotonic()
    for operation in asked:
        wait(client, operation)
    measured("monitor SIGKILL: all six provisions are done, from its start on", time.monotonic() - begun)


def test_osd_killed_and_started_again_during_provisions(lab: Lab, client: Client, measured: Measured) -> None:
    asked = provision_all(client, [f"n{number}" for number in range(1, 7)])
    wait_until(
        lambda: any(
            step.name == "disk" for operation in asked for step in client.operations.get(operation.id).steps
        ),
        deadline=120,
        what="the first disk",
        next_step="look at the workers' logs",
        poll=0.002,
    )
    lab.service.ceph.kill("osd.0")
    time.sleep(OSD_AWAY)  # what is proven is that operations wait so long, or are undone
    lab.service.ceph.start("osd.0")
    begun = time.monotonic()
    ended = [client.operations.wait(operation.id, timeout=DEADLINE) for operation in asked]
    measured("OSD SIGKILL: all six provisions have ended, from its start on", time.monotonic() - begun)
    outcomes = Counter(
        (operation.state, client.nodes.get(str(operation.result["node"])).state) for operation in ended
    )
    print(dict(outcomes))
    assert outcomes.keys() <= {("succeeded", "active"), ("failed", "available")}, ended


def told(client: Client, operation: Operation) -> list[str]:
    """What an operation's history says about waiting for Ceph."""
    return [
        event.message
        for event in client.operations.events(operation.id)
        if event.kind == "operation.retry" and "Ceph" in event.message and "waiting" in event.message
    ]


def test_database_killed_and_started_again_during_provisions(
    lab: Lab, client: Client, measured: Measured
) -> None:
    nodes = [f"n{number}" for number in range(1, 7)]
    asked = provision_all(client, nodes)
    lab.service.postgres.kill()
    assert lab.service.process("gateway1") is not None
    lab.service.postgres.start()
    begun = time.monotonic()
    for operation in asked:
        wait(client, operation)
    measured("PostgreSQL SIGKILL: all six provisions are done, from its start on", time.monotonic() - begun)


def test_a_database_that_hangs_takes_no_addresses_away(lab: Lab, client: Client) -> None:
    """Without the database nobody can take a place, so nobody may lose one, however long it takes."""
    before = leg_addresses(lab)
    assert len(before) == 2
    folder = str(lab.service.postgres.folder)
    server = next(
        each
        for each in psutil.process_iter(["cmdline"])
        if any(word.startswith(folder) for word in each.info["cmdline"] or [])
    )
    stopped = [server, *server.children(recursive=True)]
    for process in stopped:
        process.suspend()
    try:
        time.sleep(LEASE + 6)  # what is proven is that nothing happens for so long
        assert leg_addresses(lab) == before
    finally:
        for process in stopped:
            process.resume()
    wait_until(
        lambda: client.doctor(quick=True).errors == [],
        deadline=180,
        what="the service",
        next_step="look at its logs",
    )


def leg_addresses(lab: Lab) -> set[str]:
    """The addresses that the gateways really have on all networks."""
    found = set()
    for site in lab.service.gateway_sites():
        legs = lab.service.legs(site)
        found |= {str(address) for leg in legs.legs() for address in leg.addresses if address.ip.is_private}
        legs.close()
    return found


def test_a_running_node_outlives_its_gateway(lab: Lab, client: Client) -> None:
    """A booted node writes with fsync all the time while its gateway is killed; nothing acknowledged is lost."""
    wait_for_build(client)
    key = make_key(lab.folder)
    request = Provision(
        image="debian-12",
        network="net",
        project="red",
        ssh_keys=[key.with_suffix(".pub").read_text()],
    )
    wait(client, client.nodes.provision("n1", request))
    node = client.nodes.get("n1")
    dead = node.gateway
    assert dead is not None
    (other,) = {"gateway1", "gateway2"} - {dead}
    ssh = Ssh(node, key, leg_namespace(lab, client, other))
    writer = (
        "i=0; while :; do i=$((i+1)); read up _ </proc/uptime; echo $i $up >>/root/log; sync /root/log; done"
    )
    ssh.run(f"nohup sh -c '{writer}' >/dev/null 2>&1 & sleep 3; tail -1 /root/log")

    kill(lab, dead)
    wait_until(
        lambda: any(member.name == dead and member.acted_for_by == other for member in client.members.list()),
        deadline=180,
        what="the other gateway to take the place",
        next_step="look at its log",
    )
    # The log is read from the node's memory, and is as long as the node came before its disk stood still.
    wait_until(
        lambda: wrote_on(ssh),
        deadline=ISCSI_TIMEOUT,
        what="the node to write again",
        next_step="look at its console",
        poll=1,
    )
    lines = [line.split() for line in ssh.run("cat /root/log").splitlines()]
    numbers = [int(line[0]) for line in lines]
    assert numbers == list(range(1, len(numbers) + 1))  # every write that was acknowledged, in order
    gap = max(float(b[1]) - float(a[1]) for a, b in itertools.pairwise(lines))
    print(f"{len(numbers)} writes with fsync; the longest pause was {gap:.1f} s")
    assert gap < ISCSI_TIMEOUT
    assert "/dev/" in ssh.run("findmnt -no SOURCE /")
    assert "rw" in ssh.run("findmnt -no OPTIONS /").split(",")
    assert any(event.kind == "gateway.changed" for event in client.nodes.events("n1"))


def leg_namespace(lab: Lab, client: Client, gateway: str) -> str:
    """The namespace of a gateway's leg on the network."""
    network = client.networks.get("net").id
    (site,) = [site for site in lab.service.gateway_sites() if site.state_dir.name == gateway]
    legs = lab.service.legs(site)
    (namespace,) = [leg.namespace for leg in legs.legs() if leg.network == network]
    legs.close()
    return namespace


def wrote_on(ssh: Ssh) -> bool:
    """Whether the node writes, and has gone on after a pause: what is served by the dead gateway still has none."""
    text = ssh.try_run("tail -n 200 /root/log")
    times = [float(line.split()[1]) for line in text.splitlines()] if text else []
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    return max(gaps, default=0) > 1 and max(gaps[-5:]) < 1


def wait_for_build(client: Client) -> None:
    if not any(image.name == "debian-12" for image in client.images.list()):
        operation = client.images.build(ImageBuild(name="debian-12"))
        assert client.operations.wait(operation.id, timeout=BUILD_DEADLINE).state == "succeeded"
