"""Golden images are built from packages, survive being killed, and boot over iSCSI."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bmi.images.debian import Recipe, build, digest
from bmi.run import run
from bmi.wait import wait_until
from tests.integration.boot_harness import BootLab, Node, golden

SMALL = Recipe()
_ESP_START = 4 * 1024**2  # bytes
_ROOT_START = 36 * 1024**2

# The first run of all builds the image; it takes about a minute, several on a machine that is busy.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def image() -> Path:
    return golden(SMALL)


@pytest.fixture(scope="module")
def node(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with BootLab(tmp_path_factory.mktemp("boot")) as lab:
        node = lab.power_on("web-1", image)
        node.phone_home()
        yield node


def _in_image(image: Path, command: str) -> str:
    return run(["debugfs", "-R", command, f"{image}?offset={_ROOT_START}"])


def test_an_image_is_built_once(image: Path) -> None:
    said: list[str] = []
    started = time.monotonic()
    again = build(SMALL, cache=image.parent, progress=lambda what, fraction: said.append(what))
    assert again == image
    assert said == ["done"]
    assert time.monotonic() - started < 2


def test_an_image_is_sparse_and_has_the_size_that_was_asked_for(image: Path) -> None:
    assert image.stat().st_size == SMALL.size
    assert image.stat().st_blocks * 512 < 400 * 1024**2


def test_an_image_has_what_bios_and_uefi_start_from(image: Path) -> None:
    table = json.loads(run(["sfdisk", "--json", image]))["partitiontable"]
    assert table["label"] == "gpt"
    assert [part["name"] for part in table["partitions"]] == ["bios", "esp", "root"]
    assert "BOOTX64  EFI" in run(["mdir", "-i", f"{image}@@{_ESP_START}", "::/EFI/BOOT"])
    with image.open("rb") as file:
        assert file.read(512).endswith(b"\x55\xaa")


def test_an_image_carries_no_identity(image: Path) -> None:
    assert "ssh_host" not in _in_image(image, "ls -l /etc/ssh")
    assert _in_image(image, "cat /etc/machine-id") == ""
    assert "GenerateName=yes" in _in_image(image, "cat /etc/iscsi/initiatorname.iscsi")
    assert _in_image(image, "cat /etc/hostname") == ""


def test_a_build_that_is_ended_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def end_in_the_middle(what: str, fraction: float) -> None:
        if what == "unpacking the base system":
            raise EnoughError

    for _ in range(2):
        with pytest.raises(EnoughError):
            build(SMALL, cache=tmp_path, progress=end_in_the_middle)
        assert [path.name for path in tmp_path.iterdir()] == [f".debian-bookworm-{digest(SMALL)}.lock"]


def test_a_killed_build_takes_its_processes_and_mounts_along(tmp_path: Path) -> None:
    program = f"""
from pathlib import Path
from bmi.images.debian import Recipe, build
build(Recipe(), cache=Path({str(tmp_path)!r}), progress=lambda what, fraction: print(what, flush=True))
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as builder:
        assert builder.stdout is not None
        # By then apt works inside the new root, with file systems mounted there.
        for line in builder.stdout:
            if line == "installing the base system\n":
                break
        builder.kill()
    wait_until(
        lambda: not _processes_that_mention(tmp_path),
        deadline=10,
        what="the build's processes to end",
        next_step="",
    )
    assert str(tmp_path) not in Path("/proc/mounts").read_text()
    assert not list(tmp_path.glob("*.raw"))


def _processes_that_mention(folder: Path) -> list[int]:
    words = str(folder).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if words in (process / "cmdline").read_bytes():
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def test_builds_of_one_recipe_wait_for_the_first(image: Path, tmp_path: Path) -> None:
    name = f"debian-bookworm-{digest(SMALL)}"
    first = subprocess.Popen(["flock", tmp_path / f".{name}.lock", "cat"], stdin=subprocess.PIPE)
    said: list[str] = []
    made: list[Path] = []

    def second() -> None:
        made.append(build(SMALL, cache=tmp_path, progress=lambda what, fraction: said.append(what)))

    thread = threading.Thread(target=second)
    try:
        wait_until(
            lambda: (
                subprocess.run(["flock", "-n", tmp_path / f".{name}.lock", "true"], check=False).returncode
            ),
            deadline=10,
            what="the first build to hold the lock",
            next_step="",
        )
        thread.start()
        wait_until(lambda: said, deadline=10, what="the second build to say that it waits", next_step="")
        assert said == ["waiting for another build of the same image"]
        assert not made
        (tmp_path / f"{name}.raw").symlink_to(image)
    finally:
        first.communicate()
    thread.join(30)
    assert made == [tmp_path / f"{name}.raw"]
    assert said[-1] == "done"


def test_a_node_phones_home_with_the_key_that_its_sshd_has(node: Node) -> None:
    form = node.phone_home().form
    assert form["instance_id"] == node.instance_id
    assert form["hostname"] == "web-1"
    key = form["pub_key_ed25519"]
    scanned = run(["ssh-keyscan", "-t", "ed25519", "-p", str(node.ssh_port), "127.0.0.1"], timeout=60)
    assert key.split()[:2] == scanned.split()[1:3]


def test_a_node_runs_from_its_disk_alone(node: Node) -> None:
    seen = node.ssh(
        "hostname; findmnt -no LABEL,FSTYPE /; iscsiadm -m session; cat /proc/swaps; cat /etc/machine-id"
    )
    name, root, session, _, *rest = seen.splitlines()
    assert name == "web-1"
    assert root.split() == ["bmi-root", "ext4"]
    assert "iqn.2026-01.test:web-1" in session
    assert len(rest) == 1, "there is swap"
    assert len(rest[0]) == 32
    assert node.ssh("systemctl is-system-running || systemctl --failed").strip() == "running"


def test_a_node_waits_for_its_gateway_for_a_day(node: Node) -> None:
    # iscsid, which would set its own idea of it, starts after the node has phoned home.
    wait = "until iscsiadm -m session -P1 | grep -q 'LOGGED IN'; do sleep 1; done"
    node.ssh(f"systemctl start iscsid && {wait}")
    assert node.ssh("cat /sys/class/iscsi_session/*/recovery_tmo").split() == ["86400"]


def test_a_node_has_the_tools_for_a_look_around(node: Node) -> None:
    node.ssh(
        "for tool in lsblk findmnt ip ping nc wget busybox iscsiadm; do command -v $tool || exit 1; done"
    )
    assert node.ssh("grep -c nameserver /etc/resolv.conf").strip() == "1"


def test_a_node_powers_off_when_its_button_is_pressed(node: Node) -> None:
    started = time.monotonic()
    node.press_power_button()
    node.powers_off()
    assert "reboot: Power down" in node.console()
    assert time.monotonic() - started < 60
