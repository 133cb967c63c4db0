"""The project's systemd units, in a box with a systemd of its own: they may do what they have to, and no more.

The service works with drivers in memory: what needs the helper is not here.
"""

import json
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.wait import wait_until
from tests.installed import CHECKOUT, MEMORY, UNITS, Installed, documented, installed

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes namespaces: run as root"),
    pytest.mark.timeout(600),
]

PARTS = ["bmi-api.service", "bmi-gateway.service", "bmi-worker.service"]
SERVICES = ["bmi.service", *PARTS]
WITH_SANDBOX = ["bmi.service", "bmi-worker.service"]
WITH_TARGETS = ["bmi.service", "bmi-gateway.service"]
SERVE = "/opt/bmi/bin/bmi serve --config /etc/bmi/bmi.toml"

WRITE = """
import os
for folder in {folders}:
    try:
        with open(os.path.join(folder, "probe"), "w"):
            pass
        os.unlink(os.path.join(folder, "probe"))
        print(folder)
    except OSError:
        pass
"""

RUN = """
import os, shutil, subprocess
for folder in ("/var/lib/bmi", "/var/cache/bmi", "/tmp", "/var/tmp", "/dev/shm"):
    program = os.path.join(folder, "program")
    shutil.copy("/usr/bin/true", program)
    try:
        subprocess.run([program])
        print(folder)
    except PermissionError:
        pass
    os.unlink(program)
"""

SANDBOX = """
import subprocess
from pathlib import Path
from tempfile import mkdtemp
from bmi.sandbox import FOLDER, Limits, confined

image = Path(mkdtemp(), "image.qcow2")
subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", str(image), "3M"], check=True)
image.chmod(0o644)
confined(
    ["qemu-img", "info", f"{FOLDER}/image"],
    limits=Limits(seconds=30, written=1 << 20),
    line=print,
    pulse=lambda: None,
    read={"image": image},
)
"""

APPLIANCE = """
from pathlib import Path
from bmi.drivers.storage import Backing
from bmi.images.appliance.session import Appliance

disk = Path("/var/lib/bmi/empty.raw")
with disk.open("wb") as file:
    file.truncate(8 << 20)
try:
    Appliance(Path("/var/cache/bmi")).ask(Backing("file", str(disk)), "look", {}, tell=lambda *_: None)
    print("looked")
finally:
    disk.unlink()
"""

TARGET = """
import json, os, time
from ipaddress import IPv4Address
from pathlib import Path
from uuid import UUID
from bmi.drivers import Site
from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal
from bmi.drivers.target.tgt import TgtTarget

state = Path("/var/lib/bmi/probe")
state.mkdir(exist_ok=True)
disk = state / "disk"
with disk.open("wb") as file:
    file.truncate(4 << 20)
target = TgtTarget({}, Site(state, "0a1b2c3d"))
portal = Portal(UUID(int=1), IPv4Address("127.0.0.1"), 3999)
export = Export("iqn.2026-01.internal.bmi:a", "iqn.2026-01.internal.bmi:n", "user", "secret-of-node",
    (Lun(1, Backing("file", str(disk))),))
outcome = target.serve(portal, [export])
print(json.dumps([outcome.value, [found.iqn for found in target.exports(portal.id)]]), flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def bmi() -> Iterator[Installed]:
    with installed(MEMORY) as found:
        yield found


@pytest.fixture
def served(bmi: Installed) -> Iterator[Installed]:
    """Let the service run."""
    bmi.box.run("systemctl", "start", "bmi.service")
    bmi.answers("bmi.service")
    yield bmi
    bmi.box.run("systemctl", "stop", "bmi.service")


def status(pid: int) -> dict[str, str]:
    """Read what the kernel says of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("unit", UNITS)
def test_systemd_accepts_the_unit(bmi: Installed, unit: str) -> None:
    assert bmi.box.show(unit, "LoadState") == "loaded"
    verified = bmi.box.try_run("systemd-analyze", "verify", f"/etc/systemd/system/{unit}")
    assert (verified.returncode, verified.stdout, verified.stderr) == (0, "", "")


def test_the_user_can_not_log_in_and_alone_reads_the_settings(bmi: Installed) -> None:
    name, _, uid, _, _, home, shell = bmi.box.run("getent", "passwd", "bmi").strip().split(":")
    assert (name, home, shell) == ("bmi", "/var/lib/bmi", "/usr/sbin/nologin")
    assert int(uid) < 1000
    as_service = bmi.box.try_run("runuser", "-u", "bmi", "--", "cat", "/etc/bmi/bmi.toml")
    assert as_service.stdout == MEMORY
    assert bmi.box.try_run("runuser", "-u", "bmi", "--", "touch", "/etc/bmi/bmi.toml").returncode != 0
    assert bmi.box.try_run("runuser", "-u", "nobody", "--", "cat", "/etc/bmi/bmi.toml").returncode != 0


def test_a_single_host_is_enabled_as_documented(bmi: Installed) -> None:
    bmi.box.shell(documented("One host"))
    # The helper is a part of it.
    assert (
        bmi.box.run("systemctl", "is-enabled", "bmi-helper.socket", "bmi.service").split() == ["enabled"] * 2
    )
    bmi.answers("bmi.service")
    bmi.box.shell("systemctl disable --now bmi.service bmi-helper.service bmi-helper.socket")


def test_several_hosts_are_enabled_as_documented(bmi: Installed) -> None:
    for line in documented("Several hosts").splitlines():
        bmi.box.shell(line.replace(" --now", ""))
    assert bmi.box.run("systemctl", "is-enabled", *PARTS).split() == ["enabled"] * 3
    bmi.box.run("systemctl", "disable", *PARTS, "bmi-helper.service", "bmi-helper.socket")


def test_the_service_answers_and_has_no_rights(served: Installed) -> None:
    found = status(served.box.main_pid("bmi.service"))
    user = served.box.run("id", "-u", "bmi").strip()
    assert set(found["Uid"].split()) == {user}
    sets = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    assert {int(found[name], 16) for name in sets} == {0}
    assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")
    token = served.box.read("/var/lib/bmi/admin.token").strip()
    assert json.loads(served.ask("whoami", token))["admin"] is True


def test_an_operation_is_carried_out(served: Installed) -> None:
    token = served.box.read("/var/lib/bmi/admin.token").strip()
    body = ["--header", "Content-Type: application/json", "--data"]
    node = {
        "name": "n1",
        "bmc": {"driver": "memory", "address": "bmc", "username": "u", "password": "secret"},
        "nics": [{"mac": "52:54:00:00:00:01", "switch": "sw1", "port": "port1"}],
    }
    served.ask("nodes", token, *body, json.dumps(node))
    asked = json.loads(served.ask("nodes/n1/reset", token, *body, "{}"))
    ended = json.loads(served.ask(f"operations/{asked['id']}?wait=30", token))
    assert (ended["state"], ended["error"]) == ("succeeded", None)


def test_what_the_service_keeps_is_its_own(served: Installed) -> None:
    for folder, mode in {"/var/lib/bmi": "700", "/var/cache/bmi": "711"}.items():
        assert served.box.run("stat", "--format=%U:%G %a", folder).strip() == f"bmi:bmi {mode}"


def test_the_service_starts_again_when_it_was_killed(served: Installed) -> None:
    before = served.box.main_pid("bmi.service")
    os.kill(before, 9)
    wait_until(
        lambda: served.box.show("bmi.service", "NRestarts") == "1",
        deadline=60,
        what="systemd to start it again",
        next_step="see its journal",
    )
    served.box.wait_active("bmi.service")
    served.answers("bmi.service")
    assert served.box.main_pid("bmi.service") != before


@pytest.mark.parametrize("unit", PARTS)
def test_the_service_works_with_what_each_part_may_do(bmi: Installed, unit: str) -> None:
    """The parts by themselves need PostgreSQL and Ceph; so everything runs with the restrictions of one of them."""
    name = bmi.like(unit, "whole", SERVE)
    bmi.box.run("systemctl", "start", name)
    try:
        bmi.answers(name)
        part = unit.removeprefix("bmi-").removesuffix(".service")
        assert bmi.box.path(f"/var/lib/bmi/parts/{part}/bmi.db").exists()
    finally:
        bmi.box.run("systemctl", "stop", name)


@pytest.mark.parametrize("unit", SERVICES)
def test_nothing_is_written_elsewhere(bmi: Installed, unit: str) -> None:
    bmi.box.shell("mkdir -p /srv/open /run/open && chmod 1777 /srv/open /run/open")  # other users may
    own = ["/var/lib/bmi", "/var/cache/bmi", "/tmp", "/var/tmp"]
    folders = [
        *own,
        "/srv/open",
        "/run/open",
        "/run/lock",
        "/etc/bmi",
        "/opt/bmi",
        "/usr",
        "/root",
        "/home",
        "/dev",
    ]
    written = bmi.python(unit, "write", WRITE.format(folders=folders)).split()
    assert written == own
    assert not bmi.box.path("/tmp/probe").exists()


@pytest.mark.parametrize("unit", SERVICES)
def test_nothing_is_run_from_where_it_writes(bmi: Installed, unit: str) -> None:
    built = ["/var/cache/bmi"] if unit in WITH_SANDBOX else []  # images, with their own programs
    assert bmi.python(unit, "execute", RUN).split() == built


@pytest.mark.parametrize("unit", SERVICES)
def test_no_program_gives_rights(bmi: Installed, unit: str) -> None:
    bmi.box.shell("cp /usr/bin/id /usr/bin/id-of-root && chmod 4755 /usr/bin/id-of-root")
    assert bmi.once(unit, "setuid", "/usr/bin/id-of-root -u") == bmi.box.run("id", "-u", "bmi")


def test_a_folder_elsewhere_is_written_to_as_documented(bmi: Installed) -> None:
    bmi.box.shell("install -d -m 700 -o bmi -g bmi /srv/bmi")
    script = WRITE.format(folders=["/srv/bmi", "/srv"])
    assert bmi.python("bmi.service", "elsewhere", script).split() == []
    more = documented("Folders elsewhere").splitlines()[1:]
    assert bmi.python("bmi.service", "elsewhere", script, more=more).split() == ["/srv/bmi"]


@pytest.mark.parametrize("unit", WITH_SANDBOX)
def test_the_sandbox_has_kvm_as_documented(bmi: Installed, unit: str) -> None:
    """Not KVM itself, which few machines have where tests run: a device that can be written to, in its place."""
    bmi.box.shell("getent group kvm || groupadd --system kvm")
    bmi.box.shell("[ -e /dev/kvm ] || { mknod -m 660 /dev/kvm c 1 3; chgrp kvm /dev/kvm; }")
    sandbox = "bwrap --unshare-all --ro-bind / / --dev /dev --dev-bind /dev/kvm /dev/kvm --proc /proc"
    command = f"{sandbox} /bin/sh -c 'echo >/dev/kvm && echo written'"
    more = documented("KVM").splitlines()[1:]
    assert bmi.once(unit, "kvm", command, more=more) == "written\n"


@pytest.mark.parametrize("unit", WITH_SANDBOX)
def test_the_sandbox_works(bmi: Installed, unit: str) -> None:
    assert "virtual size: 3 MiB" in bmi.python(unit, "sandbox", SANDBOX)


@pytest.mark.parametrize("unit", WITH_SANDBOX)
def test_nothing_hides_a_part_of_proc_from_the_sandbox(bmi: Installed, unit: str) -> None:
    """The kernel lets a sandbox mount a /proc only where nothing covers parts of the one that is there.

    This systemd leaves one behind that is whole, later ones do not.
    """
    mounts = bmi.once(unit, "mounts", "/bin/cat /proc/self/mountinfo").splitlines()
    assert [line.split()[4] for line in mounts if line.split()[4].startswith("/proc")] == ["/proc"]


@pytest.mark.parametrize("unit", WITH_SANDBOX)
def test_the_virtual_machine_that_looks_into_disks_works(bmi: Installed, unit: str) -> None:
    said = bmi.python(unit, "appliance", APPLIANCE, seconds=240)
    assert said.strip() == "looked"


@pytest.mark.parametrize("unit", WITH_TARGETS)
def test_a_target_goes_on_while_its_service_starts_again(bmi: Installed, unit: str) -> None:
    said = "/run/target.output"
    bmi.box.write("/opt/bmi/target.py", f'import sys\nsys.path.insert(0, "{CHECKOUT}/src")\n{TARGET}')
    command = f"{CHECKOUT}/.venv/bin/python /opt/bmi/target.py"
    name = bmi.like(unit, "target", command, more=[f"StandardOutput=truncate:{said}"])

    def started(verb: str) -> list[object]:
        bmi.box.path(said).unlink(missing_ok=True)
        bmi.box.run("systemctl", verb, name)
        wait_until(
            lambda: bmi.box.path(said).exists() and bmi.box.read(said).endswith("\n"),
            deadline=60,
            what="the target",
            next_step="see the journal",
        )
        return list(json.loads(bmi.box.read(said)))

    def tgtd() -> str:
        return bmi.box.run("pgrep", "--exact", "--uid", "bmi", "tgtd").strip()

    try:
        assert started("start") == ["done", ["iqn.2026-01.internal.bmi:a"]]
        before = tgtd()
        assert re.fullmatch(r"\d+", before)
        assert started("restart") == ["already", ["iqn.2026-01.internal.bmi:a"]]
        assert tgtd() == before
    finally:
        bmi.box.run("systemctl", "stop", name)
        bmi.box.shell(f"kill -9 {tgtd()}; rm -rf /var/lib/bmi/probe")


def test_the_helper_sees_and_makes_what_the_host_sees(bmi: Installed) -> None:
    """A namespace that it makes is a mount, which all of the host and units that run already have to see."""
    watcher = bmi.like("bmi-gateway.service", "watcher", "/bin/sleep 600")
    bmi.box.run("systemctl", "start", watcher)
    make = "ip netns add made; ip -n made link set lo up"
    look = "readlink /proc/self/ns/mnt; grep CapEff /proc/self/status"
    try:
        space, rights = bmi.once("bmi-helper.service", "rights", f"/bin/sh -ec '{make}; {look}'").splitlines()
        assert space == bmi.box.run("readlink", "/proc/self/ns/mnt").strip()
        everything = (1 << 41) - 1
        assert 0 < int(rights.split()[1], 16) < everything
        assert "made" in bmi.box.run("ip", "netns", "list").split()
        pid = bmi.box.main_pid(watcher)
        seen = Path(f"/proc/{pid}/root/run/netns/made").stat()
        assert seen.st_dev == Path("/proc/self/ns/net").stat().st_dev  # not the plain file below the mount
        assert seen.st_ino == bmi.box.path("/run/netns/made").stat().st_ino
    finally:
        bmi.box.run("systemctl", "stop", watcher)
        bmi.box.run("ip", "netns", "delete", "made")


def test_only_the_service_may_connect_to_the_helper(bmi: Installed) -> None:
    bmi.box.run("systemctl", "start", "bmi-helper.socket")
    try:
        found = bmi.box.run("stat", "--format=%U:%G %a", "/run/bmi-helper/socket").strip()
        assert found == "root:bmi 660"
    finally:
        bmi.box.run("systemctl", "stop", "bmi-helper.socket", "bmi-helper.service")


def test_the_helpers_rights_are_bounded(bmi: Installed) -> None:
    lines = textwrap.dedent(
        """\
        mknod /run/disk b 254 0 2>/dev/null && echo device
        hostname other 2>/dev/null && echo name
        chmod u+s /run/probe 2>/dev/null && echo setuid
        unshare --user true 2>/dev/null && echo user-namespace
        :
        """
    ).replace("\n", "; ")
    bmi.box.shell("touch /run/probe")
    assert bmi.once("bmi-helper.service", "bounded", f'/bin/sh -c "{lines}"') == ""
