"""What the appliance sees in a good image, for tests that break one thing of it."""

import copy
import os
from typing import Any

GOOD: dict[str, Any] = {
    "disk": {
        "table": "gpt",
        "partitions": [
            {"device": "/dev/sda1", "content": "", "type": "21686148-6449-6e6f-744e-656564454649"},
            {"device": "/dev/sda2", "content": "vfat", "type": "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"},
            {"device": "/dev/sda3", "content": "ext4", "type": "0fc63daf-8483-4772-8e79-3d69d8477de4"},
        ],
        "boot_code": True,
        "bios_core": True,
    },
    "loaders": ["/efi/boot/bootx64.efi"],
    "system": {
        "device": "/dev/sda3",
        "type": "ext4",
        "label": "root",
        "uuid": "2b39896d-6ee1-4503-a602-a4676ae54919",
        "mounted": {"/": "/dev/sda3", "/boot/efi": "/dev/sda2"},
        "names": [
            "/boot/vmlinuz-6.1.0-56-amd64",
            "/boot/initrd.img-6.1.0-56-amd64",
            "/etc/systemd/system/multi-user.target.wants/systemd-networkd.service",
        ],
        "programs": [
            "/usr/bin/cloud-init",
            "/usr/sbin/sshd",
            "/sbin/iscsid",
            "/sbin/iscsistart",
            "/usr/sbin/update-initramfs",
        ],
        "modules": ["6.1.0-56-amd64"],
        "builtin": ["ext4"],
        "texts": {
            "/etc/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\nVERSION_CODENAME=x\n',
            "/etc/fstab": "LABEL=root / ext4 _netdev,errors=remount-ro 0 0\n",
            "/etc/machine-id": "",
            "/boot/grub/grub.cfg": "menuentry x {\n  linux /boot/vmlinuz-6.1.0-56-amd64 root=LABEL=root ro ip=dhcp "
            "console=tty0 console=ttyS0,115200\n}\n",
            "/etc/systemd/network/80-all.network": "[Match]\nName=e*\n[Network]\nDHCP=yes\nKeepConfiguration=yes\n",
            "/etc/cloud/cloud.cfg": "datasource_list: [ NoCloud, None ]\n",
        },
        "initramfs": {
            "path": "/boot/initrd.img-6.1.0-56-amd64",
            "names": [
                "usr/sbin/iscsistart",
                "scripts/local-top/iscsi",
                "usr/lib/modules/6.1.0-56-amd64/kernel/drivers/scsi/iscsi_tcp.ko",
                "usr/lib/modules/6.1.0-56-amd64/kernel/drivers/firmware/iscsi_ibft.ko.xz",
                "usr/lib/modules/6.1.0-56-amd64/kernel/drivers/scsi/sd_mod.ko",
                "usr/lib/modules/6.1.0-56-amd64/kernel/drivers/net/virtio_net.ko",
                "usr/lib/modules/6.1.0-56-amd64/kernel/drivers/net/ethernet/intel/igb/igb.ko",
            ],
            "texts": {"etc/iscsi.initramfs": "ISCSI_AUTO=true\n"},
        },
    },
}

_REDHAT: dict[str, Any] = {
    "texts": {
        "/etc/os-release": 'PRETTY_NAME="Rocky Linux 9.4"\nID="rocky"\nID_LIKE="rhel centos fedora"\n',
        "/etc/fstab": "UUID=2b39896d-6ee1-4503-a602-a4676ae54919 / xfs defaults,_netdev 0 0\n",
        "/boot/loader/entries/x-5.14.conf": "title Rocky\nlinux /vmlinuz-5.14\noptions "
        "root=UUID=2b39896d-6ee1-4503-a602-a4676ae54919 ro console=ttyS0,115200 $kernelopts\n",
        "/boot/grub2/grubenv": "# GRUB Environment Block\nkernelopts=rd.iscsi.firmware=1 ip=ibft\n",
        "/etc/cloud/cloud.cfg": "users: [default]\n",
    },
    "names": [
        "/boot/vmlinuz-5.14",
        "/boot/initramfs-5.14.img",
        "/boot/vmlinuz-0-rescue-1",
        "/usr/lib/dracut/modules.d/95iscsi",
    ],
    "programs": [
        "/usr/bin/cloud-init",
        "/usr/sbin/sshd",
        "/usr/sbin/iscsid",
        "/usr/sbin/iscsistart",
        "/usr/bin/dracut",
    ],
    "initramfs": {
        "path": "/boot/initramfs-5.14.img",
        "names": [
            "usr/sbin/iscsiroot",
            "usr/lib/modules/5.14/kernel/iscsi_tcp.ko.xz",
            "usr/lib/modules/5.14/kernel/iscsi_ibft.ko.xz",
            "usr/lib/modules/5.14/kernel/tg3.ko.xz",
        ],
        "texts": {},
    },
    "builtin": ["sd_mod"],
}


def good() -> dict[str, Any]:
    """Return a copy of what is seen in a good Debian."""
    return copy.deepcopy(GOOD)


def redhat() -> dict[str, Any]:
    """Return the same of a system with dracut."""
    seen = good()
    seen["system"].update(copy.deepcopy(_REDHAT))
    return seen


def answer(self: Any, backing: Any, verb: str, request: Any, *, tell: Any, **more: Any) -> dict[str, Any]:
    """Stand in for the appliance (`Appliance.ask`): every disk is a good one that reads no seed.

    What is prepared or made a node is written over at its end, so that a test sees which volume was changed.
    """
    tell("looking", 0.5)
    seen = good()
    seen["system"]["programs"].remove("/usr/bin/cloud-init")
    if verb == "look":
        return seen
    with open(backing.path, "r+b") as file:
        file.seek(-16, os.SEEK_END)
        file.write(verb.encode().ljust(16, b"\0"))
    tell("changing", 0.9)
    if verb == "prepare":
        return {"changes": ["the machine id is emptied: each node makes its own"], "seen": seen}
    return {"users": ["root"], "done": True}
