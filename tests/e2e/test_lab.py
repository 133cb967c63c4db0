"""A lab whose command was killed, at ever later moments, goes away without a trace."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bmi import netns
from bmi.lab.lab import Lab
from bmi.run import run
from tests.e2e.conftest import free_port


def traces(folder: Path, before: set[str]) -> list[str]:
    """What of a lab is on the machine."""
    programs = [line for line in run(["ps", "-eo", "args"]).splitlines() if f"{folder}/" in line]
    mounts = [line for line in Path("/proc/mounts").read_text().splitlines() if str(folder) in line]
    loops = [line for line in run(["losetup", "--list"]).splitlines() if str(folder) in line]
    return [*programs, *mounts, *loops, *(set(netns.names()) - before)]


@pytest.mark.parametrize("moment", [0.4, 0.8, 1.5, 3.0, 6.0])
def test_a_killed_lab_is_taken_down_without_a_trace(tmp_path: Path, moment: float) -> None:
    before = set(netns.names())
    folder = Path(f"/tmp/bmi-lab-{os.getpid()}-{moment:g}")
    words = ["lab", "up", "--nodes", "2", "--dir", str(folder), "--api-port", str(free_port())]
    with subprocess.Popen([sys.executable, "-m", "bmi.cli", *words], stdout=subprocess.DEVNULL) as child:
        time.sleep(moment)  # the variable of this experiment, not a wait
        child.kill()
    Lab(folder).down(lambda what, seconds: None)
    assert not folder.exists()
    assert traces(folder, before) == []


def test_a_lab_that_is_half_up_is_completed(tmp_path: Path) -> None:
    folder = Path(f"/tmp/bmi-lab-{os.getpid()}-half")
    lab = Lab(folder)
    port = free_port()
    try:
        lab.up(2, port, lambda what, seconds: None)
        service = lab.service_process()
        assert service is not None
        service.stop(kill=True)
        assert not lab.status().service
        lab.up(2, port, lambda what, seconds: None)
        assert lab.status().service
        with lab.client() as client:
            assert [node.name for node in client.nodes.list()] == ["n1", "n2"]
    finally:
        lab.down(lambda what, seconds: None)
    assert not folder.exists()
