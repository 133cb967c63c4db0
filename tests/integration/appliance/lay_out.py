"""Lays a plain Debian out on a disk as installers do, other than on one ext4 partition; boots on BIOS.

Run by the system's Python: the appliance's folder, the layout, the disk, the root file system as a tar archive.
"""

import sys
from collections.abc import Callable
from typing import Any

import guestfs

BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
OLDER_EXT4 = "^metadata_csum_seed,^orphan_file"  # GRUB of Debian 12 cannot read these
BOOT_START, BOOT_END = 4096, 524287  # sectors; a /boot of 254 MiB, where there is one


def _lvm(g: Any) -> str:
    """/boot on a partition, / and /var on logical volumes, named as Debian's installer names them."""
    g.part_add("/dev/sda", "p", BOOT_START, BOOT_END)
    g.part_add("/dev/sda", "p", BOOT_END + 1, -2048)
    g.pvcreate("/dev/sda3")
    g.vgcreate("plain-vg", ["/dev/sda3"])
    g.lvcreate("root", "plain-vg", 1100)
    g.lvcreate_free("var", "plain-vg", 100)
    for device in ("/dev/sda2", "/dev/plain-vg/root", "/dev/plain-vg/var"):
        g.mkfs("ext4", device, features=OLDER_EXT4)
    g.mount("/dev/plain-vg/root", "/")
    for device, folder in (("/dev/sda2", "/boot"), ("/dev/plain-vg/var", "/var")):
        g.mkdir(folder)
        g.mount(device, folder)
    return (
        "/dev/mapper/plain--vg-root / ext4 errors=remount-ro 0 1\n"
        f"UUID={g.vfs_uuid('/dev/sda2')} /boot ext4 defaults 0 2\n"
        "/dev/mapper/plain--vg-var /var ext4 defaults 0 2\n"
    )


def _xfs(g: Any) -> str:
    part = _one_partition(g, "xfs")
    g.mount(part, "/")
    return f"UUID={g.vfs_uuid(part)} / xfs defaults 0 0\n"


def _btrfs(g: Any) -> str:
    """/ in the subvolume that Debian's installer makes."""
    part = _one_partition(g, "btrfs")
    g.mount(part, "/")
    g.btrfs_subvolume_create("/@rootfs")
    g.umount_all()
    g.mount_options("subvol=@rootfs", part, "/")
    return f"UUID={g.vfs_uuid(part)} / btrfs defaults,subvol=@rootfs 0 0\n"


def _one_partition(g: Any, kind: str) -> str:
    g.part_add("/dev/sda", "p", BOOT_START, -2048)
    g.mkfs(kind, "/dev/sda2")
    return "/dev/sda2"


LAYOUTS: dict[str, Callable[[Any], str]] = {"lvm": _lvm, "xfs": _xfs, "btrfs": _btrfs}
"""Each makes the file systems, mounts them, and returns the fstab."""


def main(appliance: str, layout: str, disk: str, packed: str) -> None:
    """Lay it out."""
    g = guestfs.GuestFS(python_return_dict=True)
    g.set_backend("direct")
    g.set_backend_settings(["force_tcg"])
    g.set_path(appliance)
    g.set_network(False)
    g.add_drive_opts(disk, format="raw")
    g.launch()
    g.part_init("/dev/sda", "gpt")
    g.part_add("/dev/sda", "p", 2048, BOOT_START - 1)
    g.part_set_gpt_type("/dev/sda", 1, BIOS_BOOT)
    fstab = LAYOUTS[layout](g)
    g.tar_in(packed, "/")
    g.write("/etc/fstab", fstab.encode())
    g.sh("grub-install --target=i386-pc /dev/sda")
    g.sh("update-grub")
    g.umount_all()
    g.shutdown()
    g.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
