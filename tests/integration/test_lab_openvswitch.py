"""The lab's switch: that it comes and goes whole, whatever happens to whoever starts it."""

import random
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import psutil
import pytest

from bmi import netns, processes
from bmi.drivers import Site
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.ovs import OvsSwitch
from bmi.errors import CommandFailed
from bmi.lab.openvswitch import OpenVSwitch

DAEMONS = ["ovs-vswitchd", "ovsdb-server"]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[OpenVSwitch]:
    lab = OpenVSwitch(tmp_path / "switch", f"tsw-{uuid4().hex[:8]}")
    yield lab
    lab.stop()
    assert daemons(lab) == []
    assert not netns.exists(lab.namespace)


@pytest.fixture
def driver(lab: OpenVSwitch, tmp_path: Path) -> Iterator[OvsSwitch]:
    with closing(OvsSwitch({"database": lab.db}, Site(tmp_path / "state", "0badcafe"))) as driver:
        yield driver


def daemons(lab: OpenVSwitch) -> list[str]:
    """Name the programs that run in the lab's folder."""
    return sorted(
        found.info["name"]
        for found in psutil.process_iter(["name", "cmdline"])
        if found.info["name"] in DAEMONS and str(lab.directory) in " ".join(found.info["cmdline"] or ())
    )


def test_start_makes_a_switch_that_works(lab: OpenVSwitch, driver: OvsSwitch) -> None:
    assert not lab.alive()

    lab.start()

    assert lab.alive()
    assert daemons(lab) == DAEMONS
    assert list(driver.ports()) == []


def test_start_again_changes_nothing(lab: OpenVSwitch, driver: OvsSwitch) -> None:
    lab.start()
    lab.add_tap("p1")
    driver.configure("p1", PortVlans(101))
    before = [processes.recorded(lab.directory / f"{daemon}.json") for daemon in DAEMONS]

    lab.start()
    OpenVSwitch(lab.directory, lab.namespace).start()

    assert [processes.recorded(lab.directory / f"{daemon}.json") for daemon in DAEMONS] == before
    assert driver.port("p1").vlans == PortVlans(101)


@pytest.mark.parametrize("dead", [["ovs-vswitchd"], ["ovsdb-server"], DAEMONS], ids="+".join)
def test_start_restarts_what_died(lab: OpenVSwitch, driver: OvsSwitch, dead: list[str]) -> None:
    lab.start()
    lab.add_tap("p1")
    driver.configure("p1", PortVlans(101))
    for daemon in dead:
        process = processes.recorded(lab.directory / f"{daemon}.json")
        assert process is not None
        process.stop(kill=True)
    assert not lab.alive()

    lab.start()

    assert lab.alive()
    assert daemons(lab) == DAEMONS
    assert driver.port("p1").vlans == PortVlans(101)
    assert driver.configure("p1", PortVlans(102)) == "done"


def test_a_switch_comes_back_after_the_machine_restarted(lab: OpenVSwitch, driver: OvsSwitch) -> None:
    lab.start()
    for port in ("p1", "p2"):
        lab.add_tap(port)
    driver.configure("p1", PortVlans(101))
    for daemon in DAEMONS:
        process = processes.recorded(lab.directory / f"{daemon}.json")
        assert process is not None
        process.stop(kill=True)
    netns.delete(lab.namespace)

    lab.start()
    for port in ("p1", "p2"):
        lab.add_tap(port)

    assert [(state.port, state.vlans) for state in driver.ports()] == [
        ("p1", PortVlans(101)),
        ("p2", ISOLATED),
    ]
    assert {"p1", "p2"} <= netns.interfaces(lab.namespace)


def test_stop_leaves_nothing_but_the_logs(lab: OpenVSwitch) -> None:
    lab.start()
    lab.add_tap("p1")

    lab.stop()

    assert not lab.alive()
    assert daemons(lab) == []
    assert not netns.exists(lab.namespace)
    assert {path.suffix for path in lab.directory.iterdir()} == {".log"}
    lab.stop()


def test_a_switch_that_never_started_can_be_stopped(lab: OpenVSwitch) -> None:
    lab.stop()
    assert not lab.alive()


def test_a_switch_that_was_stopped_starts_empty(lab: OpenVSwitch, driver: OvsSwitch) -> None:
    lab.start()
    lab.add_tap("p1")
    lab.stop()
    lab.start()
    assert list(driver.ports()) == []


def test_a_tap_is_isolated_at_first_and_then_keeps_its_vlans(lab: OpenVSwitch, driver: OvsSwitch) -> None:
    lab.start()
    lab.add_tap("p1")
    assert driver.port("p1").vlans == ISOLATED

    driver.configure("p1", PortVlans(101, frozenset({102})))
    lab.add_tap("p1")

    assert driver.port("p1").vlans == PortVlans(101, frozenset({102}))


def test_a_removed_port_is_gone_with_its_device(lab: OpenVSwitch, driver: OvsSwitch) -> None:
    lab.start()
    lab.add_tap("p1")
    lab.remove_port("p1")
    lab.remove_port("p1")
    assert list(driver.ports()) == []
    assert "p1" not in netns.interfaces(lab.namespace)


def test_a_name_that_is_too_long_is_refused(lab: OpenVSwitch, driver: OvsSwitch) -> None:
    lab.start()
    with pytest.raises(CommandFailed):
        lab.add_tap("a-name-of-16-char")
    assert list(driver.ports()) == []


def test_a_switch_outlives_the_process_that_started_it(lab: OpenVSwitch) -> None:
    subprocess.run([sys.executable, "-c", _STARTER, lab.directory, lab.namespace], check=True)
    assert lab.alive()


def test_a_starter_that_is_killed_anywhere_leaves_nothing_behind_that_start_or_stop_misses(
    lab: OpenVSwitch, driver: OvsSwitch
) -> None:
    chance = random.Random(1)
    for turn in range(10):
        with subprocess.Popen(
            [sys.executable, "-c", _STARTER, lab.directory, lab.namespace], stdout=subprocess.PIPE, text=True
        ) as starter:
            assert starter.stdout is not None
            assert starter.stdout.readline() == "starting\n"
            # A start takes about 100 ms.
            select.select([], [], [], chance.uniform(0, 0.1))
            starter.kill()
        if turn % 2:
            lab.start()
            assert daemons(lab) == DAEMONS
            lab.add_tap("p1")
            assert driver.port("p1").vlans == ISOLATED
        lab.stop()
        assert daemons(lab) == []


def test_a_folder_with_a_long_name_will_do(tmp_path: Path) -> None:
    """A socket's path has 107 bytes at the most."""
    lab = OpenVSwitch(tmp_path / ("x" * 120), f"tsw-{uuid4().hex[:8]}")
    try:
        lab.start()
        lab.add_tap("p1")
        with closing(OvsSwitch({"database": lab.db}, Site(tmp_path / "state", "0badcafe"))) as driver:
            driver.configure("p1", PortVlans(101))
            assert driver.port("p1").vlans == PortVlans(101)
    finally:
        lab.stop()


def test_two_switches_do_not_meet(lab: OpenVSwitch, driver: OvsSwitch, tmp_path: Path) -> None:
    other = OpenVSwitch(tmp_path / "other", f"tsw-{uuid4().hex[:8]}")
    lab.start()
    try:
        other.start()
        other.add_tap("p1")
        lab.add_tap("p1")
        driver.configure("p1", PortVlans(101))
        other.stop()
        assert lab.alive()
        assert driver.port("p1").vlans == PortVlans(101)
    finally:
        other.stop()


_STARTER = """
import sys
from pathlib import Path
from bmi.lab.openvswitch import OpenVSwitch
lab = OpenVSwitch(Path(sys.argv[1]), sys.argv[2])
print("starting", flush=True)
lab.start()
lab.add_tap("p1")
"""
