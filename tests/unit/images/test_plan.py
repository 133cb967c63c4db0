"""What a preparation would change, and that it changes nothing where nothing is wrong."""

from typing import Any

import pytest

from bmi.errors import ImageInvalid
from bmi.images.readiness.actions import Action, Copy, Install, Run, Write
from bmi.images.readiness.check import judge
from bmi.images.readiness.facts import DiskReport
from bmi.images.readiness.plan import plan
from tests.seen_disks import good, redhat


def planned(seen: dict[str, Any]) -> list[Action]:
    report = DiskReport.model_validate(seen)
    return plan(report, judge(report))


def written(seen: dict[str, Any]) -> dict[str, str]:
    return {action.path: action.content for action in planned(seen) if isinstance(action, Write)}


def test_without_open_iscsi_it_is_installed_and_the_initramfs_made_anew() -> None:
    seen = good()
    seen["system"]["programs"].remove("/sbin/iscsistart")
    actions = planned(seen)
    assert any(isinstance(action, Install) for action in actions)
    last = actions[-1]
    assert isinstance(last, Run)
    assert last.command.startswith("update-initramfs")


def test_fstab_says_that_the_root_needs_the_network_and_has_no_swap() -> None:
    seen = good()
    seen["system"]["texts"]["/etc/fstab"] = (
        "# x\n/dev/sda3 / ext4 errors=remount-ro 0 1\n/dev/sda4 none swap sw 0 0\n"
    )
    assert written(seen)["/etc/fstab"] == (
        "# x\nUUID=2b39896d-6ee1-4503-a602-a4676ae54919 / ext4 errors=remount-ro,_netdev 0 1\n"
        "# /dev/sda4 none swap sw 0 0\n"
    )


def test_the_kernel_is_told_of_network_and_console_now_and_for_kernels_to_come() -> None:
    seen = good()
    seen["system"]["texts"]["/boot/grub/grub.cfg"] = (
        "\tlinux\t/vmlinuz-6.1.0-56-amd64 root=/dev/vda1 ro  quiet\n"
    )
    files = written(seen)
    words = "ip=dhcp console=tty0 console=ttyS0,115200"
    uuid = "UUID=2b39896d-6ee1-4503-a602-a4676ae54919"
    assert files["/boot/grub/grub.cfg"] == f"\tlinux\t/vmlinuz-6.1.0-56-amd64 root={uuid} ro  quiet {words}\n"
    assert files["/etc/default/grub.d/99-bmi.cfg"] == f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {words}"\n'


def test_the_signed_loaders_are_copied_to_where_firmware_looks() -> None:
    seen = good()
    seen["loaders"] = ["/efi/ubuntu/grubx64.efi", "/efi/ubuntu/shimx64.efi"]
    copies = [(action.origin, action.to) for action in planned(seen) if isinstance(action, Copy)]
    assert copies == [
        ("/boot/efi/efi/ubuntu/shimx64.efi", "/boot/efi/EFI/BOOT/BOOTX64.EFI"),
        ("/boot/efi/efi/ubuntu/grubx64.efi", "/boot/efi/EFI/BOOT/grubx64.efi"),
    ]


def test_networkd_keeps_the_card_in_each_of_its_files() -> None:
    seen = good()
    seen["system"]["texts"]["/etc/systemd/network/80-all.network"] = "[Network]\nDHCP=yes\n"
    seen["system"]["programs"].remove("/usr/bin/cloud-init")
    assert "KeepConfiguration=yes" in written(seen)["/etc/systemd/network/80-all.network.d/bmi.conf"]


def test_netplan_keeps_the_card() -> None:
    seen = good()
    seen["system"]["programs"] = ["/usr/sbin/netplan", "/sbin/iscsistart", "/usr/sbin/sshd"]
    seen["system"]["texts"]["/etc/netplan/50.yaml"] = "network: {ethernets: {all: {dhcp4: true}}}\n"
    assert "critical: true" in written(seen)["/etc/netplan/99-bmi.yaml"]


def test_dracut_is_told_and_grub_entries_get_the_options() -> None:
    seen = redhat()
    seen["system"]["texts"]["/boot/grub2/grubenv"] = ""
    files = written(seen)
    assert 'hostonly="no"' in files["/etc/dracut.conf.d/90-bmi.conf"]
    assert "rd.iscsi.firmware=1" in files["/boot/loader/entries/x-5.14.conf"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda seen: seen.update(system=None), "no Linux"),
        (
            lambda seen: seen["system"]["texts"].update({"/etc/os-release": "ID=alpine\n"}),
            "families of Debian",
        ),
        (lambda seen: seen["system"].update(names=[]), "no kernel"),
    ],
)
def test_what_cannot_be_prepared_is_refused_with_its_reason(change: Any, words: str) -> None:
    seen = good()
    change(seen)
    with pytest.raises(ImageInvalid, match=words):
        planned(seen)


def test_redhat_without_its_packages_is_refused_with_their_names() -> None:
    seen = redhat()
    seen["system"]["programs"].remove("/usr/sbin/iscsistart")
    with pytest.raises(ImageInvalid, match="dracut-network"):
        planned(seen)
