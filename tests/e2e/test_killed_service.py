"""The service is killed in the middle of three provisions, at ever later moments, and started again."""

import time
from signal import SIGKILL

import pytest

from bmi.api.nodes import Milestone, Provision
from tests.e2e.conftest import IMAGE, Measured, Site

DEADLINE = 120.0  # seconds until what was interrupted has ended


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

        for operation in asked:
            ended = client.operations.wait(operation.id, timeout=DEADLINE)
            node = client.nodes.get(str(operation.result["node"]))
            assert (ended.state, node.state) == ("succeeded", "active")
        measured("all three provisions are done, from its start on", time.monotonic() - begun)
        # Nothing is there twice, nothing is missing.
        report = client.doctor(quick=True)
        assert report.errors == []
        assert (report.inventory.disks, report.inventory.exports, report.inventory.ports_in_use) == (3, 3, 3)
