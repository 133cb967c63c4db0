"""The box with a systemd of its own: what it leaves on the host, and what it does to it."""

import os
import subprocess
import tempfile
from pathlib import Path

import psutil
import pytest

from tests.systemd_box import SystemdBox, systemd_box

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: run as root")


def left(box: SystemdBox) -> list[str]:
    """Return what there is of a box on this host, other boxes aside."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if box.name in line]
    # This host's cgroups, wherever it has mounted them.
    words = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    words += ["mount -t cgroup2 none /mnt && find /mnt -maxdepth 1 -name $0", box.name]
    cgroups = subprocess.run(words, capture_output=True, text=True, check=True, timeout=30).stdout.split()
    return [*mounts, *cgroups, *map(str, Path(tempfile.gettempdir()).glob(box.name))]


def test_nothing_is_left_when_what_is_done_in_it_fails() -> None:
    seen: list[SystemdBox] = []
    processes: list[psutil.Process] = []
    with pytest.raises(ZeroDivisionError), systemd_box() as box:
        seen.append(box)
        box.write(
            "/etc/systemd/system/sleeper.service", "[Service]\nExecStart=/bin/sleep 600\nKillMode=none\n"
        )
        box.run("systemctl", "daemon-reload")
        box.run("systemctl", "start", "sleeper")
        processes += [psutil.Process(box.pid), psutil.Process(box.main_pid("sleeper.service"))]
        assert all(process.is_running() for process in processes)
        assert not Path("/etc/systemd/system/sleeper.service").exists()
        assert len(left(box)) == 2  # its cgroup and its folder; no mount
        raise ZeroDivisionError
    assert not any(process.is_running() for process in processes)
    assert left(seen[0]) == []


def test_a_unit_that_fails_says_why() -> None:
    with systemd_box() as box:
        unit = "[Service]\nExecStart=/bin/sh -c 'echo it was me; exit 3'\n"
        box.write("/etc/systemd/system/failing.service", unit)
        box.run("systemctl", "daemon-reload")
        box.run("systemctl", "start", "failing")
        with pytest.raises(AssertionError, match="it was me"):
            box.wait_active("failing.service")


def test_it_has_a_network_and_a_name_of_its_own() -> None:
    with systemd_box() as box:
        assert box.run("ls", "/sys/class/net").split() == ["lo"]
        name = os.uname().nodename
        box.run("hostname", "other")
        assert os.uname().nodename == name
