"""What goes into a golden image, and where on its disk."""

import stat
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from bmi.images.debian import Kernel, Recipe, digest, grub, rootfs

EVERY_KIND = [
    Recipe(kernel=kernel, cloud_init=cloud_init) for kernel in Kernel for cloud_init in (False, True)
]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 1024**3 - 1024**2},
        {"size": 2 * 1024**3 + 1},
        {"label": "a label"},
        {"label": "seventeen-letters"},
        {"kernel": "real-time"},
        {"packages": ("vim; reboot",)},
        {"packages": ("-o",)},
        {"kernel_arguments": ("two words",)},
        {"kernel_arguments": ("}\nmenuentry",)},
        {"mirror": "file:///etc"},
        {"suite": "../bookworm"},
        {"colour": "blue"},
    ],
)
def test_a_recipe_that_cannot_be_built_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Recipe.model_validate(wrong)


def test_images_of_different_recipes_have_different_names() -> None:
    recipes = [
        *EVERY_KIND,
        Recipe(label="other"),
        Recipe(size=3 * 1024**3),
        Recipe(packages=("vim-tiny",)),
        Recipe(serial="2026-11-22"),
    ]
    assert len({digest(recipe) for recipe in recipes}) == len(recipes)


def test_images_of_equal_recipes_have_the_same_name() -> None:
    assert digest(Recipe()) == digest(Recipe(kernel=Kernel.CLOUD, packages=()))


@pytest.mark.parametrize("recipe", EVERY_KIND, ids=str)
def test_files_for_the_root_file_system_are_complete(recipe: Recipe, tmp_path: Path) -> None:
    files = _overlay(recipe, tmp_path)
    for name, (member, text) in files.items():
        assert "@LABEL@" not in text, name
        assert "@KERNEL_ARGUMENTS@" not in text, name
        assert (member.uid, member.gid) == (0, 0), name
        assert bool(member.mode & stat.S_IXUSR) == text.startswith("#!"), name
    assert f"root=LABEL={recipe.label} " in files["boot/grub/grub.cfg"][1]
    assert f"LABEL={recipe.label} / ext4" in files["etc/fstab"][1]
    assert ("usr/lib/bmi/node-setup" in files) == (not recipe.cloud_init)
    assert ("usr/lib/bmi/seed-networks" in files) == recipe.cloud_init
    assert stat.S_IMODE(files["usr/lib/bmi/networks"][0].mode) == 0o755
    assert ("etc/cloud/cloud.cfg.d/90_bmi.cfg" in files) == recipe.cloud_init


@pytest.mark.parametrize("recipe", EVERY_KIND, ids=str)
def test_what_units_start_is_there(recipe: Recipe, tmp_path: Path) -> None:
    files = _overlay(recipe, tmp_path)
    started = {
        word.lstrip("+-").removeprefix("/")
        for name, (_, text) in files.items()
        if name.startswith("etc/systemd/system/")
        for line in text.splitlines()
        if line.startswith("Exec")
        for word in line.partition("=")[2].split()
        if "/usr/lib/bmi/" in word
    }
    assert started
    assert started <= files.keys()


def test_kernel_arguments_of_the_recipe_reach_the_kernel(tmp_path: Path) -> None:
    files = _overlay(Recipe(kernel_arguments=("mitigations=off",)), tmp_path)
    lines = [line for line in files["boot/grub/grub.cfg"][1].splitlines() if "linux /vmlinuz" in line]
    assert len(lines) == 2
    assert all(line.endswith(" mitigations=off") for line in lines)


def test_the_first_sector_starts_the_loader_of_the_same_disk() -> None:
    code = grub.boot_code(2048)
    assert len(code) == 440, "it must not reach into the partition table"
    assert struct.unpack_from("<Q", code, 0x5C) == (2048,)
    assert code[0x64] == 0xFF, "the drive that the BIOS names"


def test_the_loader_knows_where_the_rest_of_it_is(tmp_path: Path) -> None:
    core = grub.bios_core(tmp_path, partition=3)
    image = grub.placed(core, 2048)
    start, sectors, _ = struct.unpack_from("<QHH", image, 512 - 12)
    assert start == 2049
    assert sectors == -(-len(core) // 512) - 1
    assert len(core) < 1024**2 - 512, "it must fit its partition"
    assert image[512:] == core[512:]


def test_the_uefi_loader_is_an_efi_program(tmp_path: Path) -> None:
    assert grub.uefi_loader(tmp_path, partition=3).startswith(b"MZ")


def _overlay(recipe: Recipe, folder: Path) -> dict[str, tuple[tarfile.TarInfo, str]]:
    packed = folder / "overlay.tar"
    rootfs.write_overlay(recipe, packed)
    with tarfile.open(packed) as tar:
        members = tar.getmembers()
        assert len({member.name for member in members}) == len(members), "a file is there twice"
        files = {}
        for member in members:
            content = tar.extractfile(member)
            assert content is not None
            files[member.name] = (member, content.read().decode())
    return files


def test_networkd_is_told_of_each_network_beside_the_one_that_the_node_booted_on(tmp_path: Path) -> None:
    common = rootfs.FILES / "common"
    wired = common / "etc/systemd/network/10-wired.network"
    folder, listed = tmp_path / "network", tmp_path / "list"
    folder.mkdir()
    (folder / "05-bmi-vlan7.netdev").write_text("of the boot before")
    listed.write_text(
        "boot 52:54:00:00:00:01\n"
        "vlan 52:54:00:00:00:01 105 10.1.0.5/24\n"
        "card 52:54:00:00:00:02 10.2.0.5/24\n"
        "vlan 52:54:00:00:00:02 106 10.3.0.5/25\n"
    )
    command = ["sh", common / "usr/lib/bmi/networks", listed, folder, wired]
    subprocess.run(command, check=True)

    said = {path.name: path.read_text().splitlines() for path in folder.iterdir()}
    assert sorted(said) == [
        "05-bmi-525400000001.network",
        "05-bmi-525400000002.network",
        "05-bmi-vlan105.netdev",
        "05-bmi-vlan105.network",
        "05-bmi-vlan106.netdev",
        "05-bmi-vlan106.network",
    ]
    booted, other = said["05-bmi-525400000001.network"], said["05-bmi-525400000002.network"]
    assert "MACAddress=52:54:00:00:00:01" in booted
    assert "VLAN=vlan105" in booted
    # The rest as without them: the root file system hangs on it.
    of_all = wired.read_text().splitlines()
    assert [line for line in of_all if line not in booted] == []
    assert {"Address=10.2.0.5/24", "VLAN=vlan106", "RequiredForOnline=no"} <= set(other)
    assert "DHCP=ipv4" not in other
    assert said["05-bmi-vlan105.netdev"] == ["[NetDev]", "Name=vlan105", "Kind=vlan", "", "[VLAN]", "Id=105"]
    assert "Address=10.3.0.5/25" in said["05-bmi-vlan106.network"]

    listed.unlink()
    subprocess.run(command, check=True)
    assert list(folder.iterdir()) == []
