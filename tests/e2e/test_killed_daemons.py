"""Daemons die, or stop answering, in the middle of real provisions; all of these end done, and nothing is left."""

import time
from collections.abc import Sequence
from signal import SIGKILL, SIGSTOP, Signals

import psutil
import pytest

from bmi import processes
from bmi.api.nodes import Milestone, Provision
from bmi.api.operations import Operation
from bmi.client import Client
from bmi.processes import Process
from bmi.wait import wait_until
from tests.e2e.conftest import IMAGE, Measured, Site

DEADLINE = 120.0  # seconds until what was interrupted has ended
NODES = ("n1", "n2", "n3")
FOLDERS = {"tgtd": "target", "dnsmasq": "boot"}
"""Where the service, and its helper, keep the records of their daemons."""
AWAY = 3.0  # seconds until somebody has started the switch again


def daemons(site: Site, program: str) -> list[Process]:
    service = site.lab.service
    homes = [service.state("service"), *service.state("helper").glob("*")]
    found = [each for home in homes for each in processes.recorded_below(home / FOLDERS[program])]
    return [each for each in found if _name(each) == program]  # not the forwarders of tgtd


def _name(process: Process) -> str:
    try:
        return psutil.Process(process.pid).name()
    except psutil.NoSuchProcess:
        return ""


def provision(client: Client, nodes: Sequence[str], until: Milestone = Milestone.POWER) -> list[Operation]:
    request = Provision(image=IMAGE, network="red-net", until=until)
    return [client.nodes.provision(node, request) for node in nodes]


def wait_for_step(client: Client, asked: Sequence[Operation], name: str) -> None:
    """Wait until one of some operations has come to a step."""
    wait_until(
        lambda: any(
            step.name == name for operation in asked for step in client.operations.get(operation.id).steps
        ),
        deadline=DEADLINE,
        what=f"step {name}",
        next_step="look at the service's log",
    )


def all_done(client: Client, asked: Sequence[Operation]) -> None:
    for operation in asked:
        ended = client.operations.wait(operation.id, timeout=DEADLINE)
        node = client.nodes.get(str(operation.result["node"]))
        assert (ended.state, node.state) == ("succeeded", "active"), ended


def is_well(client: Client) -> bool:
    report = client.doctor(quick=True)
    return report.errors == [] and report.inventory.exports == len(NODES)


@pytest.mark.parametrize("number", [SIGKILL, SIGSTOP], ids=["killed", "stopped"])
@pytest.mark.parametrize(("program", "count"), [("tgtd", len(NODES)), ("dnsmasq", 1)])
def test_a_daemon_of_the_gateway(
    site: Site, program: str, count: int, number: Signals, measured: Measured
) -> None:
    with site.lab.client(project="red") as client:
        asked = provision(client, NODES)
        wait_for_step(client, asked, "export")
        victims = wait_until(
            lambda: daemons(site, program), deadline=DEADLINE, what=program, next_step="-", poll=0.002
        )
        for victim in victims:
            victim.signal(number)
        begun = time.monotonic()
        all_done(client, asked)
        measured(f"{program} {number.name}: all three provisions are done", time.monotonic() - begun)
        wait_until(
            lambda: (
                not any(victim.alive() for victim in victims)
                and len(daemons(site, program)) == count
                and is_well(client)
            ),
            deadline=DEADLINE,
            what=f"{program} to serve again",
            next_step="look at the service's log",
        )
        measured(f"{program} {number.name}: all is as it should be", time.monotonic() - begun)


def test_dnsmasq_while_a_node_asks_for_its_address(site: Site, measured: Measured) -> None:
    with site.lab.client(project="red") as client:
        asked = provision(client, ["n1"], Milestone.DHCP)
        wait_for_step(client, asked, "watch")
        (victim,) = daemons(site, "dnsmasq")
        begun = time.monotonic()
        victim.stop(kill=True)
        all_done(client, asked)
        measured("dnsmasq SIGKILL: the node has its address", time.monotonic() - begun)


def test_the_switch(site: Site, measured: Measured) -> None:
    """The lab's switch has nobody who starts it again, so the test does."""
    with site.lab.client(project="red") as client:
        asked = [*provision(client, ["n1"], Milestone.DHCP), *provision(client, ["n2", "n3"])]
        wait_for_step(client, asked, "boot service")
        victim = site.lab.switch.vswitchd()
        assert victim is not None
        victim.stop(kill=True)
        time.sleep(AWAY)  # what is proven is that operations wait so long
        site.lab.switch.start()
        begun = time.monotonic()
        all_done(client, asked[1:])
        measured("ovs-vswitchd SIGKILL: two provisions are done", time.monotonic() - begun)
        all_done(client, asked[:1])
        measured("ovs-vswitchd SIGKILL: a node has its address", time.monotonic() - begun)
        assert is_well(client)
