"""A whole single host in a box: the service without rights, the helper, Open vSwitch, all as units of systemd.

Images and disks are files of a driver for tests, the node's power is in memory; everything else is real.
"""

import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.installed import Installed, documented, installed

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: run as root"),
    pytest.mark.timeout(600),
]

SETTINGS = """\
[helper]
socket = "/run/bmi-helper/socket"
[storage]
driver = "memory"
[leg]
driver = "ovs"
[power.memory]
[switches.sw1]
driver = "ovs"
"""

SWITCH = """
systemctl start openvswitch-switch.service
ovs-vsctl --timeout=20 add-br br0 -- set bridge br0 datapath_type=netdev
ip tuntap add dev port1 mode tap
ovs-vsctl --timeout=20 add-port br0 port1
"""

NODE = {
    "name": "n1",
    "bmc": {"driver": "memory", "address": "bmc", "username": "u", "password": "secret"},
    "nics": [{"mac": "52:54:00:00:00:01", "switch": "sw1", "port": "port1"}],
}

BUILDER = """
import os, shutil, subprocess
from pathlib import Path
from bmi.helper.new_ids import stand_in

work = Path("/var/cache/bmi/work")
work.mkdir()
work.chmod(0o777)
try:
    ids = stand_in(work / "ids", Path("/run/bmi-helper/socket"))
    inside = (
        "cp /usr/bin/true root && chown 7:8 root && chmod 4755 root && ./root && stat --format=%u:%g:%a root"
    )
    words = ["unshare", "--user", "--map-users=100000,0,65536", "--map-groups=100000,0,65536"]
    words += ["--setuid=0", "--setgid=0", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", inside]
    subprocess.run(words, env={**os.environ, **ids}, cwd=work, check=True)
    print((work / "root").stat().st_uid, flush=True)
finally:
    subprocess.run([*words[:-1], "rm -f root"], env={**os.environ, **ids}, cwd=work)
    shutil.rmtree(work)
"""

BUILD = """
from pathlib import Path
from bmi.images.debian.build import build
from bmi.images.debian.recipe import Recipe

cache, helper = Path("/var/cache/bmi"), Path("/run/bmi-helper/socket")
print(build(Recipe(), cache=cache, progress=lambda doing, fraction: None, helper=helper).stat().st_size)
"""


class Host:
    """The host in the box."""

    def __init__(self, bmi: Installed, token: str) -> None:
        self.bmi = bmi
        self.box = bmi.box
        self.token = token

    def ask(self, path: str, body: object = None) -> dict[str, Any]:
        more = (
            [] if body is None else ["--header", "Content-Type: application/json", "--data", json.dumps(body)]
        )
        return dict(json.loads(self.bmi.ask(path, self.token, *more)))

    def command(self, words: str) -> str:
        """Give one of `bmi`'s commands."""
        return self.box.run(
            "env",
            f"BMI_TOKEN={self.token}",
            "BMI_URL=http://127.0.0.1:6230",
            "HOME=/root",
            "/opt/bmi/bin/bmi",
            *shlex.split(words),
            seconds=120,
        )

    def processes(self, name: str) -> dict[str, str]:
        """Return the ids of the processes of a name, and whose they are."""
        listed = self.box.try_run("ps", "-o", "pid=,user:32=", "-C", name).stdout
        return dict(line.split() for line in listed.splitlines())  # type: ignore[misc]

    def restart(self) -> None:
        self.box.run("systemctl", "restart", "bmi-helper.service", "bmi.service")
        self.bmi.answers("bmi.service")


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with installed(SETTINGS) as bmi:
        bmi.box.shell(SWITCH)
        bmi.box.shell(documented("One host"))
        bmi.answers("bmi.service")
        yield Host(bmi, bmi.box.read("/var/lib/bmi/admin.token").strip())


@pytest.fixture(scope="module")
def provisioned(host: Host) -> Host:
    """Provision a node, up to its having power."""
    host.ask("projects", {"name": "red"})
    host.command("network create lan --project red")
    host.ask("nodes", NODE)
    host.box.shell("truncate --size=8M /root/golden.raw")
    host.command("image import /root/golden.raw --name golden --format raw")
    host.command("node provision n1 --image golden --network lan --project red --until power")
    return host


def rights(host: Host, unit: str) -> int:
    status = Path(f"/proc/{host.box.main_pid(unit)}/status").read_text()
    return int(status.partition("CapPrm:")[2].split()[0], 16)


def found(host: Host) -> set[str]:
    """What the doctor finds; the node of these tests is on no wire."""
    return {finding["code"] for finding in host.ask("doctor")["findings"]}


def test_only_the_helper_has_rights(host: Host) -> None:
    assert rights(host, "bmi.service") == 0
    assert rights(host, "bmi-helper.service") != 0


def test_a_node_is_provisioned_without_rights(provisioned: Host) -> None:
    assert found(provisioned) == {"port-without-link"}
    inventory = provisioned.ask("doctor")["inventory"]
    assert (inventory["legs"], inventory["dhcp_servers"], inventory["exports"]) == (1, 1, 1)
    for program, user in {"dnsmasq": "dnsmasq", "tgtd": "bmi", "haproxy": "bmi"}.items():
        assert set(provisioned.processes(program).values()) == {user}, program


def test_the_nodes_daemons_outlive_the_units(provisioned: Host) -> None:
    programs = ("dnsmasq", "tgtd", "haproxy")
    before = {program: provisioned.processes(program) for program in programs}
    provisioned.restart()
    assert {program: provisioned.processes(program) for program in programs} == before
    assert found(provisioned) == {"port-without-link"}


def test_whoever_asks_the_helper_starts_it(provisioned: Host) -> None:
    provisioned.box.run("systemctl", "stop", "bmi-helper.socket", "bmi-helper.service")
    provisioned.box.run("systemctl", "restart", "bmi.service")
    provisioned.bmi.answers("bmi.service")
    assert provisioned.box.show("bmi-helper.service", "ActiveState") == "active"
    assert found(provisioned) == {"port-without-link"}


@pytest.mark.parametrize("unit", ["bmi.service", "bmi-worker.service"])
def test_files_of_other_users_are_made_in_a_namespace_of_ones_own(host: Host, unit: str) -> None:
    """As images are built: ids that the helper gives, programs with the setuid bit that do nothing outside."""
    host.box.shell(documented("Building images"))
    said = host.bmi.python(unit, "builder", BUILDER).split()
    assert said == ["7:8:4755", "100007"]


def test_nobody_else_may_ask_the_helper(host: Host) -> None:
    script = "import socket; socket.socket(socket.AF_UNIX).connect('/run/bmi-helper/socket')"
    done = host.box.try_run("runuser", "-u", "nobody", "--", "/usr/bin/python3", "-c", script)
    assert done.returncode != 0
    assert "PermissionError" in done.stderr


def test_a_node_that_is_given_back_leaves_nothing(provisioned: Host) -> None:
    provisioned.command("node deprovision n1")
    provisioned.command("network delete lan --project red")
    for program in ("dnsmasq", "tgtd", "haproxy"):
        assert provisioned.processes(program) == {}, program
    assert provisioned.box.run("ip", "netns", "list") == ""
    assert found(provisioned) == set()


def test_a_golden_image_is_built_with_what_a_worker_may_do() -> None:
    with installed(SETTINGS, hosts_network=True) as bmi:  # packages come from a mirror
        bmi.box.shell("rm -rf /var/cache/bmi/debian-*")
        bmi.box.shell(documented("Building images"))
        bmi.box.run("systemctl", "start", "bmi-helper.service")
        assert bmi.python("bmi-worker.service", "build", BUILD, seconds=500).strip() == str(2 << 30)
