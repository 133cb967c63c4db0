"""Each thing that keeps an image from booting over iSCSI is found, and named; nothing else is."""

from collections.abc import Callable
from typing import Any

import pytest

from bmi.api.readiness import Severity
from bmi.images.readiness.check import judge
from bmi.images.readiness.facts import DiskReport
from tests.seen_disks import good, redhat

Break = Callable[[dict[str, Any]], Any]


def codes(seen: dict[str, Any]) -> dict[str, Severity]:
    return {each.code: each.severity for each in judge(DiskReport.model_validate(seen)).findings}


@pytest.mark.parametrize("make", [good, redhat])
def test_a_good_image_has_no_finding(make: Callable[[], dict[str, Any]]) -> None:
    assert codes(make()) == {}


def _text(path: str, content: str) -> Break:
    return lambda seen: seen["system"]["texts"].update({path: content})


def _initramfs_without(word: str) -> Break:
    def change(seen: dict[str, Any]) -> None:
        own = seen["system"]["initramfs"]
        own["names"] = [name for name in own["names"] if word not in name]

    return change


def _without(field: str, word: str) -> Break:
    def change(seen: dict[str, Any]) -> None:
        seen["system"][field] = [name for name in seen["system"][field] if word not in name]

    return change


def _grub(old: str, new: str) -> Break:
    def change(seen: dict[str, Any]) -> None:
        texts = seen["system"]["texts"]
        texts["/boot/grub/grub.cfg"] = texts["/boot/grub/grub.cfg"].replace(old, new)

    return change


def _plain_disk(seen: dict[str, Any]) -> None:
    seen["disk"].update(table=None, boot_code=False, bios_core=False)
    seen["loaders"] = None


CASES: list[tuple[str, Severity, Break]] = [
    ("no-boot-loader", Severity.BLOCKS, _plain_disk),
    ("no-partition-table", Severity.WARNS, _plain_disk),
    ("no-bios-loader", Severity.WARNS, lambda seen: seen["disk"].update(boot_code=False)),
    ("no-bios-loader", Severity.WARNS, lambda seen: seen["disk"].update(bios_core=False)),
    ("no-efi-partition", Severity.WARNS, lambda seen: seen.update(loaders=None)),
    ("no-efi-fallback", Severity.WARNS, lambda seen: seen.update(loaders=["/efi/debian/grubx64.efi"])),
    ("no-system", Severity.BLOCKS, lambda seen: seen.update(system=None)),
    ("no-kernel", Severity.BLOCKS, _without("names", "vmlinuz")),
    ("no-initramfs", Severity.BLOCKS, lambda seen: seen["system"].update(initramfs=None)),
    ("initramfs-unreadable", Severity.WARNS, lambda seen: seen["system"]["initramfs"].update(trouble="x")),
    ("no-boot-entry", Severity.BLOCKS, _text("/boot/grub/grub.cfg", "set timeout=0\n")),
    ("root-by-device", Severity.BLOCKS, _grub("root=LABEL=root", "root=/dev/vda1")),
    ("root-by-device", Severity.WARNS, _grub("root=LABEL=root", "root=/dev/sda3")),
    ("root-not-found", Severity.BLOCKS, _grub("root=LABEL=root", "root=LABEL=other")),
    ("no-serial-console", Severity.INFO, _grub("console=ttyS0,115200", "")),
    ("initramfs-no-iscsi", Severity.BLOCKS, _initramfs_without("iscsistart")),
    ("initramfs-no-iscsi-tcp", Severity.BLOCKS, _initramfs_without("iscsi_tcp")),
    ("initramfs-no-iscsi-ibft", Severity.BLOCKS, _initramfs_without("iscsi_ibft")),
    ("initramfs-no-sd-mod", Severity.BLOCKS, _initramfs_without("sd_mod")),
    ("initramfs-no-nic", Severity.BLOCKS, _initramfs_without("/net/")),
    ("virtual-nics-only", Severity.WARNS, _initramfs_without("igb")),
    ("ibft-not-used", Severity.BLOCKS, lambda seen: seen["system"]["initramfs"].update(texts={})),
    ("no-iscsid", Severity.WARNS, _without("programs", "iscsid")),
    ("nic-not-kept", Severity.WARNS, _text("/etc/systemd/network/80-all.network", "[Network]\nDHCP=yes\n")),
    ("fstab-no-netdev", Severity.WARNS, _text("/etc/fstab", "LABEL=root / ext4 defaults 0 1\n")),
    ("fstab-by-device", Severity.WARNS, _text("/etc/fstab", "/dev/sda3 / ext4 _netdev 0 1\n")),
    ("swap", Severity.WARNS, _text("/etc/fstab", "LABEL=root / ext4 _netdev 0 1\nUUID=1 none swap sw 0 0\n")),
    (
        "swap-partition",
        Severity.INFO,
        lambda seen: seen["disk"]["partitions"].append({"device": "/dev/sda4", "content": "swap"}),
    ),
    ("no-ssh-server", Severity.WARNS, _without("programs", "sshd")),
    ("no-seed-reader", Severity.INFO, _without("programs", "cloud-init")),
    (
        "cloud-init-off",
        Severity.BLOCKS,
        lambda seen: seen["system"]["names"].append("/etc/cloud/cloud-init.disabled"),
    ),
    (
        "cloud-init-no-nocloud",
        Severity.BLOCKS,
        _text("/etc/cloud/cloud.cfg.d/90.cfg", "datasource_list: [ Ec2, None ]\n"),
    ),
    ("machine-id", Severity.WARNS, _text("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")),
    ("host-keys", Severity.INFO, lambda seen: seen["system"]["names"].append("/etc/ssh/ssh_host_rsa_key")),
    ("unknown-system", Severity.WARNS, _text("/etc/os-release", "ID=alpine\nPRETTY_NAME=Alpine\n")),
]


@pytest.mark.parametrize(("code", "severity", "change"), CASES)
def test_one_thing_that_is_wrong_is_named(code: str, severity: Severity, change: Break) -> None:
    seen = good()
    change(seen)
    assert codes(seen)[code] is severity


def test_what_is_broken_alone_is_found_alone() -> None:
    for code, _, change in CASES:
        seen = good()
        change(seen)
        if code not in ("no-boot-loader", "no-partition-table"):  # the same disk
            assert set(codes(seen)) == {code}


def test_a_system_with_dracut_has_to_be_told_to_ask_the_firmware() -> None:
    seen = redhat()
    seen["system"]["texts"]["/boot/grub2/grubenv"] = "kernelopts=quiet\n"
    assert codes(seen) == {"ibft-not-used": Severity.BLOCKS}


def test_an_encrypted_disk_is_named_as_one() -> None:
    seen = good() | {"system": None}
    seen["disk"]["partitions"][2]["content"] = "crypto_LUKS"
    assert "encrypted" in codes(seen)


def test_the_worst_is_said_first_and_keys_from_outside_are_known() -> None:
    seen = good()
    _without("programs", "cloud-init")(seen)
    _initramfs_without("iscsistart")(seen)
    report = judge(DiskReport.model_validate(seen))
    assert [each.severity for each in report.findings] == [Severity.BLOCKS, Severity.INFO]
    assert report.blocked
    assert report.needs_keys
    seen["system"]["names"].append("/usr/lib/bmi/node-setup")
    assert not judge(DiskReport.model_validate(seen)).needs_keys
