"""Keys and a name get into clones of every layout, and into nothing else."""

import hashlib
import shutil
from pathlib import Path

import pytest

from bmi.drivers.storage import Backing
from bmi.errors import ImageInvalid
from bmi.images.appliance.session import Appliance
from bmi.images.readiness.keys import Identity, personalise
from tests.integration.appliance.conftest import Guest, quiet

pytestmark = pytest.mark.timeout(1200)

LAYOUTS = ("ext4", "lvm", "xfs", "btrfs")
NODE = Identity(
    "boot-1", "web-1", ["ssh-ed25519 AAAA one", "ssh-ed25519 BBBB two"], "http://10.0.0.1:8080/boot/1/t/ph"
)


def test_each_layout_takes_keys_and_the_golden_image_stays(
    appliance: Appliance, guest: Guest, folder_of_appliance: Path, tmp_path: Path
) -> None:
    golden = [tmp_path / f"{name}.raw" for name in LAYOUTS]
    for disk in golden:
        with disk.open("wb") as file:
            file.truncate(512 << 20)  # xfs takes no less
    guest("minimal.py", "make", folder_of_appliance, *golden)
    before = [_digest(disk) for disk in golden]
    clones = [Path(shutil.copy(disk, disk.with_suffix(".clone"))) for disk in golden]
    for clone in clones:
        assert personalise(appliance, Backing("file", str(clone)), NODE, quiet) == ["root", "ann"]
    assert [_digest(disk) for disk in golden] == before
    for name, found in guest("minimal.py", "read", folder_of_appliance, *clones).items():
        keys = "ssh-ed25519 AAAA one\nssh-ed25519 BBBB two\n"
        assert found["/root/.ssh/authorized_keys"] == keys, name
        assert found["/home/ann/.ssh/authorized_keys"] == keys, name
        assert found["owner"] == [1000, 1000, 0o600], name
        assert (found["/etc/hostname"], found["machine-id"]) == ("web-1\n", 0), name
        assert found["/var/lib/bmi/instance-id"] == "boot-1\n", name
        assert found["unit"] == "/etc/systemd/system/bmi-phone-home.service", name


def test_a_disk_without_a_system_is_refused(appliance: Appliance, tmp_path: Path) -> None:
    disk = tmp_path / "empty.raw"
    with disk.open("wb") as file:
        file.truncate(16 << 20)
    with pytest.raises(ImageInvalid, match="no operating system"):
        personalise(appliance, Backing("file", str(disk)), NODE, quiet)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
