"""What the switch driver `ovs` does when a part of Open vSwitch does not do its part."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from bmi import processes
from bmi.drivers import Outcome, Site
from bmi.drivers.switch import ISOLATED, PortVlans
from bmi.drivers.switch.ovs import OvsSwitch
from bmi.errors import SettingsInvalid, SwitchError
from bmi.lab.openvswitch import OpenVSwitch
from bmi.run import run
from tests.wires import running_switch

TIMEOUT = 1.0  # seconds
BOUND = 4.0  # seconds; a verb asks a few times, and the machine is busy


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[OpenVSwitch]:
    with running_switch(tmp_path) as switch:
        for port in ("p1", "p2"):
            switch.add_tap(port)
        yield switch


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path / "state", "0badcafe")


@pytest.fixture
def switch(lab: OpenVSwitch, site: Site) -> Iterator[OvsSwitch]:
    with closing(OvsSwitch({"database": lab.db, "timeout": TIMEOUT}, site)) as driver:
        driver.configure("p1", PortVlans(101))
        yield driver


@contextmanager
def stopped(lab: OpenVSwitch, daemon: str) -> Iterator[None]:
    process = processes.recorded(lab.directory / f"{daemon}.json")
    assert process is not None
    process.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.signal(signal.SIGCONT)


def kill(lab: OpenVSwitch, daemon: str) -> None:
    process = processes.recorded(lab.directory / f"{daemon}.json")
    assert process is not None
    process.stop(kill=True)


@contextmanager
def fails_in_time(words: str) -> Iterator[None]:
    start = time.monotonic()
    with pytest.raises(SwitchError, match=words) as caught:
        yield
    assert time.monotonic() - start < BOUND
    assert caught.value.transient
    assert caught.value.next_step


@pytest.mark.parametrize("daemon", ["ovs-vswitchd", "ovsdb-server"])
def test_a_daemon_that_hangs_is_named_and_waited_for_no_longer_than_the_timeout(
    lab: OpenVSwitch, switch: OvsSwitch, daemon: str
) -> None:
    with stopped(lab, daemon):
        with fails_in_time(daemon):
            switch.configure("p1", PortVlans(102))
        with fails_in_time(daemon):
            switch.configure("p2", ISOLATED)

    switch.configure("p1", PortVlans(103))
    assert switch.port("p1").vlans == PortVlans(103)


def test_what_was_not_confirmed_is_not_read_as_if_it_were(lab: OpenVSwitch, switch: OvsSwitch) -> None:
    with stopped(lab, "ovs-vswitchd"):
        with fails_in_time("ovs-vswitchd"):
            switch.configure("p1", ISOLATED)
        with fails_in_time("ovs-vswitchd"):
            switch.port("p1")
        with fails_in_time("ovs-vswitchd"):
            switch.ports()


def test_a_change_whose_caller_gave_up_on_the_database_is_not_made_later(
    lab: OpenVSwitch, switch: OvsSwitch
) -> None:
    with stopped(lab, "ovsdb-server"), fails_in_time("ovsdb-server"):
        switch.configure("p1", PortVlans(102))

    assert switch.configure("p2", PortVlans(104)) is Outcome.DONE  # after whatever was still under way
    assert switch.port("p1").vlans == PortVlans(101)


def test_many_callers_of_a_dead_switch_all_get_their_answer(lab: OpenVSwitch, switch: OvsSwitch) -> None:
    kill(lab, "ovs-vswitchd")

    def work(number: int) -> str:
        with pytest.raises(SwitchError) as caught:
            switch.configure(f"p{1 + number % 2}", PortVlans(200 + number))
        return caught.value.message

    start = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        messages = list(pool.map(work, range(8)))
    assert time.monotonic() - start < 8 * BOUND
    assert all("vswitchd" in message or "ovsdb-server" in message for message in messages)


@pytest.mark.parametrize("daemon", ["ovs-vswitchd", "ovsdb-server"])
def test_a_driver_goes_on_by_itself_once_a_daemon_is_back(
    lab: OpenVSwitch, switch: OvsSwitch, daemon: str
) -> None:
    kill(lab, daemon)
    with fails_in_time(daemon):
        switch.configure("p1", PortVlans(102))

    lab.start()

    start = time.monotonic()
    switch.configure("p1", PortVlans(103))
    assert time.monotonic() - start < BOUND
    assert switch.port("p1").vlans == PortVlans(103)


def test_a_change_that_somebody_else_makes_is_seen_at_once(lab: OpenVSwitch, switch: OvsSwitch) -> None:
    for vlan in range(300, 320):
        run(["ovs-vsctl", f"--db={lab.db}", "set", "Port", "p1", f"tag={vlan}"])
        assert switch.port("p1").vlans == PortVlans(vlan)


def test_two_switches_in_one_process_are_two(
    lab: OpenVSwitch, switch: OvsSwitch, tmp_path: Path, site: Site
) -> None:
    with running_switch(tmp_path / "other") as other:
        other.add_tap("q1")
        with closing(OvsSwitch({"database": other.db}, site)) as second:
            assert [state.port for state in second.ports()] == ["q1"]
            assert [state.port for state in switch.ports()] == ["p1", "p2"]


def test_a_bridge_that_does_not_exist_is_named(lab: OpenVSwitch, site: Site) -> None:
    with (
        closing(OvsSwitch({"database": lab.db, "bridge": "br9"}, site)) as driver,
        pytest.raises(SwitchError, match="no bridge br9"),
    ):
        driver.ports()


def test_the_bridge_itself_is_no_port(switch: OvsSwitch) -> None:
    with pytest.raises(SwitchError, match="no port br0"):
        switch.configure("br0", PortVlans(101))


def test_a_lost_control_socket_is_named(lab: OpenVSwitch, site: Site, tmp_path: Path) -> None:
    options = {"database": lab.db, "control": str(tmp_path / "nosuch.ctl"), "timeout": TIMEOUT}
    with closing(OvsSwitch(options, site)) as driver, fails_in_time("nosuch.ctl"):
        driver.configure("p1", PortVlans(102))


def test_the_control_socket_can_be_named(lab: OpenVSwitch, site: Site) -> None:
    [control] = lab.directory.glob("ovs-vswitchd.*.ctl")
    with closing(OvsSwitch({"database": lab.db, "control": str(control)}, site)) as driver:
        assert driver.configure("p1", PortVlans(102)) is Outcome.DONE


def test_link_tells_whether_the_other_end_is_up(lab: OpenVSwitch, switch: OvsSwitch) -> None:
    assert switch.port("p1").link is False  # no machine has opened the device
    run(["ip", "-n", lab.namespace, "link", "add", "v1", "type", "veth", "peer", "name", "v2"])
    run(["ip", "-n", lab.namespace, "link", "set", "v1", "up"])
    run(["ip", "-n", lab.namespace, "link", "set", "v2", "up"])
    lab.add_port("v1")
    assert switch.port("v1").link is True


def test_a_database_reached_over_tcp_needs_to_be_accepted_as_it_is(site: Site) -> None:
    with pytest.raises(SettingsInvalid, match="flush_flows"):
        OvsSwitch({"database": "tcp:192.0.2.1:6640"}, site)


_OVER_TCP = """
import sys
from pathlib import Path
from bmi.drivers import Site
from bmi.drivers.switch import PortVlans
from bmi.drivers.switch.ovs import OvsSwitch
switch = OvsSwitch({"database": "tcp:127.0.0.1:6640", "flush_flows": False}, Site(Path(sys.argv[1]), "0badcafe"))
print(switch.configure("p1", PortVlans(105)), switch.port("p1").vlans)
switch.close()
"""


def test_a_database_over_tcp_works(lab: OpenVSwitch, site: Site) -> None:
    control = lab.directory / "ovsdb-server.ctl"
    run(["ovs-appctl", "-t", control, "ovsdb-server/add-remote", "ptcp:6640:127.0.0.1"])
    words = [sys.executable, "-W", "error", "-c", _OVER_TCP, str(site.state_dir)]
    assert run(words, namespace=lab.namespace) == "done 105\n"


@pytest.mark.parametrize(
    "database", ["", "/run/db.sock", "unix:", "ssl:192.0.2.1:6640", "tcp:192.0.2.1", "punix:/run/db.sock"]
)
def test_what_is_no_address_of_a_database_is_refused(site: Site, database: str) -> None:
    with pytest.raises(SettingsInvalid, match="database"):
        OvsSwitch({"database": database, "flush_flows": False}, site)


def test_the_connection_s_thread_ends_with_the_driver(lab: OpenVSwitch, site: Site) -> None:
    descriptors = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with closing(OvsSwitch({"database": lab.db}, site)) as driver:
            driver.ports()
    assert len(os.listdir("/proc/self/fd")) <= descriptors


def test_an_idle_driver_costs_no_time(lab: OpenVSwitch) -> None:
    """The connection's thread must sleep, also while the database is gone."""
    script = (
        "import sys, time, select\n"
        "from pathlib import Path\n"
        "from bmi.drivers import Site\n"
        "from bmi.drivers.switch.ovs import OvsSwitch\n"
        "switch = OvsSwitch({'database': sys.argv[1]}, Site(Path('/nonexistent'), '0badcafe'))\n"
        "switch.ports()\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
        "start = time.process_time()\n"
        "select.select([], [], [], 2)\n"
        "print(time.process_time() - start)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, lab.db], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        kill(lab, "ovsdb-server")
        output, _ = process.communicate("go\n")
    assert float(output) < 0.2
