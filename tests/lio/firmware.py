"""A node without an operating system: firmware that boots from the kernel's own target, beside its machine.

The two are on one wire, a socket on this host, and nothing else is.
"""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

from bmi.drivers.storage import Backing
from bmi.drivers.target import Export, Lun, Portal
from bmi.ids import new_id
from bmi.wait import wait_until

PORTAL = Portal(new_id(), IPv4Address("10.66.0.1"), 3260)

_DEADLINE = 120  # seconds until the machine's wire is there
_SCRIPT = """#!ipxe
ifopen net0
set net0/ip 10.66.0.2
set net0/netmask 255.255.255.0
set username {export.username}
set password {export.password}
set initiator-iqn {export.initiator}
:again
sanboot --keep iscsi:{portal.address}::{portal.port}:1:{export.iqn} || goto again
"""


def export(disk: Path) -> Export:
    """Return what the firmware boots from."""
    return Export(
        iqn="iqn.2026-01.org.example:disk-1",
        initiator="iqn.2026-01.org.example:node-1",
        username="user-1",
        password="a-secret-of-16",
        luns=(Lun(1, Backing("file", str(disk))),),
    )


def boot_sector() -> bytes:
    """Return a boot sector that writes a copy of itself right behind it, and halts (16 bit x86)."""
    code = (
        b"\xfc\x31\xc0\x8e\xd8\x8e\xc0"  # cld; xor ax, ax; mov ds, ax; mov es, ax
        b"\xb8\x01\x03"  # mov ax, 0x0301: write one sector
        b"\xb9\x02\x00"  # mov cx, 2: cylinder 0, sector 2
        b"\xb6\x00"  # mov dh, 0: head 0; dl is the drive that it was read from
        b"\xbb\x00\x7c"  # mov bx, 0x7c00: this sector
        b"\xcd\x13"  # int 0x13
        b"\xfa\xf4\xeb\xfd"  # cli; end: hlt; jmp end
    )
    return code.ljust(510, b"\0") + b"\x55\xaa"


@contextmanager
def node(folder: Path, wire: Path) -> Iterator[None]:
    """Let a node be on, once the other end of its wire is there. What its firmware says is printed in the end."""
    script, console = folder / "boot.ipxe", folder / "console"
    script.write_text(_SCRIPT.format(export=export(Path("/")), portal=PORTAL))
    wait_until(wire.exists, deadline=_DEADLINE, what="the other machine", next_step="see its output")
    words = [
        "qemu-system-x86_64",
        "-machine",
        "pc,accel=tcg,graphics=off",
        "-m",
        "128",
        "-nodefaults",
        "-display",
        "none",
    ]
    words += ["-kernel", "/usr/lib/ipxe/ipxe.lkrn", "-initrd", str(script), "-serial", f"file:{console}"]
    words += ["-netdev", f"stream,id=w,server=off,addr.type=unix,addr.path={wire}"]
    words += ["-device", "virtio-net-pci,netdev=w,romfile="]
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as process:
        try:
            yield
        finally:
            process.kill()
            print(console.read_bytes().decode(errors="replace"))
