"""A plain Debian that knows nothing of iSCSI is made ready, gets keys from outside, and becomes a node."""

import hashlib
import re
from pathlib import Path

import pytest

from bmi.drivers.storage import Backing
from bmi.images.appliance.session import Appliance
from bmi.images.readiness.keys import Identity, personalise
from bmi.images.readiness.prepare import prepare
from bmi.run import run
from tests.integration.appliance.conftest import CACHE, quiet
from tests.integration.appliance.plain import Layout, plain, prepared
from tests.integration.boot_harness import BootLab, Firmware

# The first run of all builds the plain image and prepares it, which takes minutes without KVM.
pytestmark = pytest.mark.timeout(3600)


ROOTS: dict[Layout, str] = {
    "ext4": "/dev/sd?3 ext4",
    "lvm": "/dev/mapper/plain--vg-root ext4",
    "xfs": "/dev/sd?2 xfs",
    "btrfs": "/dev/sd?2[/@rootfs] btrfs",
}
"""Where the root is, as findmnt says it; which of its two LUNs a node calls sda is chance."""


@pytest.mark.parametrize(
    ("layout", "firmware"),
    [
        ("ext4", "bios"),
        pytest.param("ext4", "uefi", marks=pytest.mark.thorough),
        pytest.param("lvm", "bios", marks=pytest.mark.thorough),
        pytest.param("xfs", "bios", marks=pytest.mark.thorough),
        pytest.param("btrfs", "bios", marks=pytest.mark.thorough),
    ],
)
def test_a_prepared_image_boots_over_iscsi_and_lets_the_key_in(
    layout: Layout, firmware: Firmware, tmp_path: Path
) -> None:
    image, changes = prepared(layout)
    assert any("open-iscsi" in change for change in changes)
    golden, appliance = _digest(image), Appliance(cache=CACHE)
    with BootLab(tmp_path / "lab") as lab:
        key = lab.key.with_suffix(".pub").read_text().strip()

        def make_it_a_node(disk: Path, instance_id: str, url: str) -> None:
            who = Identity(instance_id, "web-1", [key], url)
            assert personalise(appliance, Backing("file", str(disk)), who, quiet) == ["root"]

        node = lab.power_on("web-1", image, firmware=firmware, ready=make_it_a_node)
        form = node.phone_home().form
        assert (form["instance_id"], form["hostname"]) == (node.instance_id, "web-1")
        assert node.ssh("hostname").strip() == "web-1"
        host_key = node.ssh("cat /etc/ssh/ssh_host_ed25519_key.pub").split()[1]
        assert form["pub_key_ed25519"].split()[1] == host_key
        root = node.ssh("findmnt -nro SOURCE,FSTYPE /").strip()
        assert re.sub(r"^/dev/sd[ab]", "/dev/sd?", root) == ROOTS[layout]
        assert "iqn.2026-01.test" in node.ssh("iscsiadm -m session")
        assert "_netdev" in node.ssh("cat /etc/fstab")
        node.ssh("systemctl --no-block poweroff")
        node.powers_off(deadline=180)
        assert ": not found" not in node.console()  # no script of the initramfs lacks a program
    assert _digest(image) == golden


@pytest.mark.thorough
def test_a_second_preparation_changes_nothing(tmp_path: Path) -> None:
    image, _ = prepared()
    again = tmp_path / "again.raw"
    run(["cp", "--sparse=always", image, again])
    assert prepare(Appliance(cache=CACHE), Backing("file", str(again)), quiet).changes == []


def test_the_plain_image_was_not_touched() -> None:
    assert plain().stat().st_mtime < prepared()[0].stat().st_mtime


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
