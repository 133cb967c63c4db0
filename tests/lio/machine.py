"""A virtual machine whose kernel has an iSCSI target of its own, which the test machines' kernels have not.

Its user space is made of this host's own Debian packages by supermin, its kernel is Debian's. Its network card
leads to a socket on this host. The checkout, with its Python packages, is on a disk of its own.
"""

import json
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bmi.run import run

CHECKOUT = Path(__file__).parents[2]

PACKAGES = (
    "python3",
    "kmod",
    "mount",
    "e2fsprogs",
    "util-linux",
    "procps",
    "iproute2",
    "tgt",
    "libiscsi-bin",
    "qemu-utils",
    "qemu-block-extra",
    "python3-nftables",
    "python3-rados",
    "python3-rbd",
    "libudev1",
    "libc-bin",
    "coreutils",
)
"""Debian packages in it, with all that they depend on."""

_PARTS = (".venv", "src", "tests", "bench", "pyproject.toml")
_MIB = 1 << 20
_SCRATCH = 2 << 30  # bytes
_MEMORY = 2048  # MiB
_BOOT = 120  # seconds that the machine gets beside what its order gets; it takes five
_BUILD = 300  # seconds


@dataclass(frozen=True)
class Answer:
    """What came of an order."""

    status: int
    """Exit status of the command; 255 if it could not be run."""
    trouble: list[str]
    """What the machine's kernel logged about faults of its own."""
    files: dict[str, str]
    """Files that the order asked for."""
    seconds: float


class Machine:
    """A machine that is made once and carries out one order after the other, forgetting each."""

    def __init__(self, folder: Path) -> None:
        """Make it, in an empty folder: 2 GB of disks."""
        self.folder = folder
        self.wire = folder / "wire"
        """Socket of its network card, while it runs."""
        self._appliance = _appliance(folder)
        self._scratch = _empty(folder / "scratch.img", _SCRATCH)

    def carry_out(self, command: Sequence[str], *, files: Sequence[str], deadline: float) -> Answer:
        """Switch it on, run one command in it, in the checkout, and return what came of it.

        Args:
            command: What to run. What it prints is printed here.
            files: Files to bring back; the machine may write below /scratch/tmp.
            deadline: Seconds that the command gets.
        """
        order = {"command": command, "files": files, "deadline": deadline, "checkout": str(CHECKOUT)}
        reply = self.folder / "reply.json"
        reply.unlink(missing_ok=True)
        self.wire.unlink(missing_ok=True)
        disks = [self._appliance / "root", _checkout(self.folder, order), self._scratch]
        began = time.monotonic()
        try:
            subprocess.run(
                self._words(disks, reply), stdin=subprocess.DEVNULL, timeout=deadline + _BOOT, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"the machine did not end within {deadline + _BOOT:g} s", file=sys.stderr)
        text = reply.read_text() if reply.exists() else ""
        seconds = time.monotonic() - began
        if not text.endswith("\n"):
            return Answer(255, ["the machine ended without an answer"], {}, seconds)
        return Answer(**json.loads(text), seconds=seconds)

    def _words(self, disks: Sequence[Path], reply: Path) -> list[str]:
        words = ["qemu-system-x86_64", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max"]
        words += ["-smp", "2", "-m", str(_MEMORY), "-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-kernel", str(self._appliance / "kernel"), "-initrd", str(self._appliance / "initrd")]
        words += ["-append", "console=ttyS0 quiet loglevel=1 panic=-1 root=/dev/vda", "-no-reboot"]
        for disk in disks:
            words += ["-drive", f"file={disk},format=raw,if=virtio,snapshot=on"]
        words += ["-netdev", f"stream,id=wire,server=on,addr.type=unix,addr.path={self.wire}"]
        words += ["-device", "virtio-net-pci,netdev=wire,romfile="]
        return [*words, "-serial", "stdio", "-serial", f"file:{reply}"]


def _appliance(folder: Path) -> Path:
    parts, made = folder / "parts", folder / "appliance"
    run(["supermin", "--prepare", *PACKAGES, "-o", parts], timeout=_BUILD)
    with tarfile.open(parts / "init.tar.gz", "w:gz") as archive:
        init = archive.gettarinfo(Path(__file__).with_name("guest.py"), "init")
        init.mode, init.uid, init.gid = 0o755, 0, 0
        with Path(__file__).with_name("guest.py").open("rb") as content:
            archive.addfile(init, content)
    run(
        ["supermin", "--build", "-f", "ext2", "--size", "4G", "--copy-kernel", parts, "-o", made],
        timeout=_BUILD,
    )
    return made


def _checkout(folder: Path, order: dict[str, object]) -> Path:
    """Return a disk with the checkout on it, made without mounting."""
    stage = folder / "checkout"
    stage.mkdir()
    for part in _PARTS:
        source = CHECKOUT / part
        if source.is_dir():
            shutil.copytree(source, stage / part, symlinks=True)
        else:
            shutil.copy2(source, stage / part)
    (stage / "order.json").write_text(json.dumps(order))
    used = sum(file.lstat().st_size + 4096 for file in stage.rglob("*"))
    disk = _empty(folder / "checkout.img", (used * 5 // 4 // _MIB + 64) * _MIB, content=stage)
    shutil.rmtree(stage)
    return disk


def _empty(disk: Path, size: int, *, content: Path | None = None) -> Path:
    with disk.open("wb") as file:
        file.truncate(size)
    run(["mke2fs", "-q", "-t", "ext4", *(["-d", content] if content else []), disk], timeout=_BUILD)
    return disk
