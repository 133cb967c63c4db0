"""Makes, or reads, small disks with a minimal system each: on a partition, on LVM, on xfs, on a btrfs subvolume.

Run by the system's Python: `make` or `read`, the appliance's folder, the disks in the order of LAYOUTS.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import guestfs

PASSWD = b"root:x:0:0::/root:/bin/sh\ndaemon:x:1:1::/:/bin/false\nann:x:1000:1000::/home/ann:/bin/sh\n"
READ = (
    "/root/.ssh/authorized_keys",
    "/home/ann/.ssh/authorized_keys",
    "/etc/hostname",
    "/var/lib/bmi/instance-id",
)


def _ext4(g: Any, part: str) -> None:
    g.mkfs("ext4", part)
    g.mount(part, "/")


def _lvm(g: Any, part: str) -> None:
    g.pvcreate(part)
    g.vgcreate("vg", [part])
    g.lvcreate_free("root", "vg", 100)
    g.mkfs("ext4", "/dev/vg/root")
    g.mount("/dev/vg/root", "/")


def _xfs(g: Any, part: str) -> None:
    g.mkfs("xfs", part)
    g.mount(part, "/")


def _btrfs(g: Any, part: str) -> None:
    g.mkfs("btrfs", part)
    g.mount(part, "/")
    g.btrfs_subvolume_create("/root-of-it")
    g.umount_all()
    g.mount_options("rw,subvol=root-of-it", part, "/")


LAYOUTS: tuple[tuple[str, Callable[[Any, str], None]], ...] = (
    ("ext4", _ext4),
    ("lvm", _lvm),
    ("xfs", _xfs),
    ("btrfs", _btrfs),
)


def _fill(g: Any) -> None:
    for folder in ("/etc/systemd/system", "/root", "/home/ann", "/var/lib", "/usr/lib", "/etc/ssh"):
        g.mkdir_p(folder)
    g.chown(1000, 1000, "/home/ann")
    g.write("/etc/os-release", b"ID=debian\nPRETTY_NAME=Minimal\n")
    g.write("/etc/passwd", PASSWD)
    g.write("/etc/fstab", b"")
    g.write("/etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
    g.mkdir_p("/root/.ssh")
    g.write("/root/.ssh/authorized_keys", b"the key of a former owner\n")


def _make(g: Any) -> None:
    for disk, (_, layout) in zip(g.list_devices(), LAYOUTS, strict=False):
        g.part_disk(disk, "gpt")
        layout(g, f"{disk}1")
        _fill(g)
        g.umount_all()


def _read(g: Any) -> None:
    for disk, (name, _) in zip(g.list_devices(), LAYOUTS, strict=False):
        if name == "btrfs":
            g.mount_options("ro,subvol=root-of-it", f"{disk}1", "/")
        else:
            g.mount_ro("/dev/vg/root" if name == "lvm" else f"{disk}1", "/")
        keys = g.stat("/home/ann/.ssh/authorized_keys")
        found: dict[str, Any] = {path: g.read_file(path).decode() for path in READ}
        found["machine-id"] = g.filesize("/etc/machine-id")
        found["owner"] = [keys["uid"], keys["gid"], keys["mode"] & 0o777]
        found["unit"] = g.readlink("/etc/systemd/system/multi-user.target.wants/bmi-phone-home.service")
        print(json.dumps({name: found}), flush=True)
        g.umount_all()


def main(what: str, appliance: str, *disks: str) -> None:
    """Make the disks, or read what is in them."""
    g = guestfs.GuestFS(python_return_dict=True)
    g.set_backend("direct")
    g.set_backend_settings(["force_tcg"])
    g.set_path(appliance)
    g.set_network(False)
    for disk in disks:
        g.add_drive_opts(disk, format="raw", readonly=what == "read")
    g.launch()
    (_make if what == "make" else _read)(g)
    g.shutdown()
    g.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
