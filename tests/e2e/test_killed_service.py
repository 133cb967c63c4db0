"""The service, or its helper, is killed in the middle of three provisions, and started again."""

import time
from collections.abc import Sequence
from signal import SIGKILL

import pytest

from bmi.api.nodes import Milestone, Provision
from bmi.api.operations import Operation
from bmi.client import Client
from tests.e2e.conftest import IMAGE, Measured, Site

DEADLINE = 120.0  # seconds until what was interrupted has ended
AWAY = 3.0  # seconds until somebody has started the helper again


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.1, 0.2, 0.3, 0.45, 0.7])
def test_what_was_interrupted_ends_done_or_undone(site: Site, moment: float, measured: Measured) -> None:
    """Ends with all nodes given back; the fixture proves that nothing is left then."""
    with site.lab.client(project="red") as client:
        request = Provision(image=IMAGE, network="red-net", until=Milestone.POWER)
        asked = [client.nodes.provision(node, request) for node in ("n1", "n2", "n3")]
        time.sleep(moment)  # the variable of this experiment, not a wait
        process = site.lab.service_process()
        assert process is not None
        process.signal(SIGKILL)
        process.stop(kill=True)

        begun = time.monotonic()
        site.lab.start_service()
        measured(f"service killed after {moment:g} s answers again", time.monotonic() - begun)
        all_done(client, asked)
        measured("all three provisions are done, from its start on", time.monotonic() - begun)


@pytest.mark.parametrize("moment", [0.05, 0.15, 0.3])
def test_the_helper_is_away_for_a_while(site: Site, moment: float, measured: Measured) -> None:
    service = site.lab.service
    with site.lab.client(project="red") as client:
        request = Provision(image=IMAGE, network="red-net", until=Milestone.POWER)
        asked = [client.nodes.provision(node, request) for node in ("n1", "n2", "n3")]
        time.sleep(moment)  # the variable of this experiment, not a wait
        helper = service.process("helper")
        assert helper is not None, "the lab's service is root itself: see that user bmi can read this folder"
        helper.stop(kill=True)
        begun = time.monotonic()
        time.sleep(AWAY)
        site.lab.start_service()
        all_done(client, asked)
        measured(f"helper killed after {moment:g} s, away for {AWAY:g} s: all done", time.monotonic() - begun)


def all_done(client: Client, asked: Sequence[Operation]) -> None:
    """Wait for provisions to succeed; nothing is there twice then, nothing is missing."""
    for operation in asked:
        ended = client.operations.wait(operation.id, timeout=DEADLINE)
        node = client.nodes.get(str(operation.result["node"]))
        assert (ended.state, node.state) == ("succeeded", "active")
    report = client.doctor(quick=True)
    assert report.errors == []
    assert (report.inventory.disks, report.inventory.exports, report.inventory.ports_in_use) == (3, 3, 3)
