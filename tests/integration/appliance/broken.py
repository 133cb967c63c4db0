"""Breaks an image in several ways, one after the other, and looks at each: all in one appliance.

Run by the system's Python, outside of the sandbox: the image, the appliance's folder. Prints what is seen, as JSON.
"""

import json
import sys
from collections.abc import Callable
from typing import Any

import guestfs

from bmi.images.appliance.child.look import look

ROOT, ESP = "/dev/sda3", "/dev/sda2"
KERNEL = "/boot/vmlinuz-*"
NETWORK = "/etc/systemd/network/10-wired.network"

# A whole initramfs, in the format "newc", that holds one file of no use.
_EMPTY = b"".join(
    b"070701"
    + b"00000000" * 11
    + f"{len(name) + 1:08x}".encode()
    + b"00000000"
    + name
    + b"\0" * (4 - (110 + len(name)) % 4)
    for name in (b"init", b"TRAILER!!!")
)


def _edit(g: Any, path: str, change: Callable[[str], str]) -> None:
    g.write(path, change(g.read_file(path).decode()).encode())


def _as_it_is(g: Any) -> None:
    """Break nothing."""


def _a_used_machine(g: Any) -> None:
    """What somebody leaves who took his own server for a golden image."""
    g.write("/etc/machine-id", b"0123456789abcdef0123456789abcdef\n")
    g.write("/etc/ssh/ssh_host_rsa_key", b"x")
    g.write("/etc/fstab", b"/dev/sda3 / ext4 errors=remount-ro 0 1\n/dev/sda4 none swap sw 0 0\n")
    _edit(g, NETWORK, lambda text: text.replace("KeepConfiguration=yes", ""))
    g.rm("/usr/lib/bmi/node-setup")
    g.mv("/usr/sbin/sshd", "/usr/sbin/sshd.away")
    g.mv("/sbin/iscsid", "/sbin/iscsid.away")


def _another_loader(g: Any) -> None:
    """Made for one virtual machine with UEFI, and by hand."""
    grub = "menuentry x {\n linux /vmlinuz root=/dev/vda1 ro\n}\n"
    g.write("/boot/grub/grub.cfg", grub.encode())
    g.rm_f("/etc/os-release")
    g.write("/etc/os-release", b"ID=plan9\nPRETTY_NAME=Plan9\n")
    g.umount_all()
    g.pwrite_device("/dev/sda", bytes(440), 0)
    g.mount(ESP, "/")
    g.mkdir("/EFI/debian")
    g.mv("/EFI/BOOT/BOOTX64.EFI", "/EFI/debian/grubx64.efi")


def _useless_initramfs(g: Any) -> None:
    g.write(g.glob_expand("/boot/initrd.img-*")[0], _EMPTY)
    _edit(g, "/boot/grub/grub.cfg", lambda text: "set timeout=0\n")


def _broken_initramfs(g: Any) -> None:
    g.write(g.glob_expand("/boot/initrd.img-*")[0], b"no archive at all")
    _edit(g, "/boot/grub/grub.cfg", lambda text: "menuentry x {\n linux /vmlinuz root=LABEL=other ro\n}\n")


def _no_kernel(g: Any) -> None:
    for path in g.glob_expand(KERNEL):
        g.rm(path)


def _no_system(g: Any) -> None:
    for path in ("/etc/os-release", "/usr/lib/os-release"):
        g.rm_f(path)
    g.umount_all()
    g.mount(ESP, "/")
    g.rm_rf("/EFI")


_STAGES = (
    _as_it_is,
    _a_used_machine,
    _another_loader,
    _useless_initramfs,
    _broken_initramfs,
    _no_kernel,
    _no_system,
)


def main(image: str, appliance: str) -> None:
    """Look at the image after each further thing that is broken."""
    g = guestfs.GuestFS(python_return_dict=True)
    g.set_backend("direct")
    g.set_backend_settings(["force_tcg"])
    g.set_path(appliance)
    g.set_network(False)
    g.add_drive_opts(image, format="raw", readonly=True)
    g.launch()
    for stage in _STAGES:
        g.mount(ROOT, "/")
        stage(g)
        g.umount_all()
        seen = look(g, {}, lambda doing, fraction: None)
        g.umount_all()
        print(json.dumps({stage.__name__.strip("_"): seen}), flush=True)
    g.close()


main(*sys.argv[1:])
