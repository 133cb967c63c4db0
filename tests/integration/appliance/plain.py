"""A plain Debian as clouds hand it out: GRUB on BIOS and UEFI, networkd, no open-iscsi, nothing of BMI.

Built once for all runs, and kept beside the service's own images.
"""

import fcntl
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Literal

from bmi.api.readiness import Report
from bmi.drivers.storage import Backing
from bmi.images import appliance, debian, readiness
from bmi.images.appliance.built import built
from bmi.images.appliance.session import Appliance
from bmi.images.debian import Recipe
from bmi.images.debian.rootfs import _host_apt_options, _sources
from bmi.images.readiness.prepare import prepare
from bmi.run import run, stream

Layout = Literal["ext4", "lvm", "xfs", "btrfs"]
"""Where its root is: on a partition with this file system, or on a logical volume."""

CACHE = Path("/var/cache/bmi/test-images")
ESP_START = 4 << 20  # bytes
ROOT_START = 36 << 20
SIZE = 2 << 30

# fmt: off
_PACKAGES = (
    "systemd-sysv", "udev", "kmod", "initramfs-tools", "openssh-server", "usr-is-merged", "iproute2", "procps",
    "linux-image-cloud-amd64", "grub2-common", "grub-pc-bin", "grub-efi-amd64-bin", "zstd",
)
# fmt: on
_TOOLS: dict[Layout, tuple[str, ...]] = {
    "ext4": (),
    "lvm": ("lvm2",),
    "xfs": ("xfsprogs",),
    "btrfs": ("btrfs-progs",),
}
_LAY_OUT = Path(__file__).with_name("lay_out.py")
_CUSTOMIZE = """
set -eu
root=$1
cat >"$root/etc/fstab" <<END
LABEL=plain / ext4 errors=remount-ro 0 1
LABEL=ESP /boot/efi vfat umask=0077 0 1
END
cat >"$root/etc/systemd/network/80-all.network" <<END
[Match]
Name=e*
[Network]
DHCP=yes
END
cat >"$root/etc/default/grub" <<END
GRUB_DEFAULT=0
GRUB_TIMEOUT=0
GRUB_DISTRIBUTOR=Debian
GRUB_CMDLINE_LINUX=""
GRUB_CMDLINE_LINUX_DEFAULT="quiet"
END
mkdir -p "$root/boot/efi"
chroot "$root" systemctl enable --quiet systemd-networkd.service
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap" "$root/etc/hostname" "$root/etc/resolv.conf"
echo plain >"$root/etc/hostname"
"""
_TABLE = f"""label: gpt
start=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649, name=bios
start={ESP_START // 512}, size=65536, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name=esp
start={ROOT_START // 512}, type=0FC63DAF-8483-4772-8E79-3D69D8477DE4, name=root
"""
_LOADERS = """
import sys, guestfs
g = guestfs.GuestFS(python_return_dict=True)
g.set_backend("direct")
g.set_backend_settings(["force_tcg"])
g.set_network(False)
g.add_drive_opts(sys.argv[1], format="raw")
g.launch()
g.mount("/dev/sda3", "/")
g.mount("/dev/sda2", "/boot/efi")
g.sh("grub-install --target=i386-pc /dev/sda")
g.sh("grub-install --target=x86_64-efi --efi-directory=/boot/efi --no-nvram --bootloader-id=debian")
g.sh("update-grub")
g.shutdown()
"""


def plain(layout: Layout = "ext4") -> Path:
    """Return the image; do not write to it."""
    words = [_CUSTOMIZE, _TABLE, _LOADERS, " ".join(_PACKAGES), str(SIZE)]
    if layout != "ext4":
        words += [layout, " ".join(_TOOLS[layout]), _LAY_OUT.read_text()]
    image = CACHE / f"plain-{hashlib.sha256(chr(0).join(words).encode()).hexdigest()[:16]}.raw"
    CACHE.mkdir(parents=True, exist_ok=True)
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not image.exists():
            _build(image, layout)
    return image


def _build(image: Path, layout: Layout) -> None:
    with tempfile.TemporaryDirectory(prefix=".plain-", dir=CACHE) as folder:
        work = Path(folder)
        work.chmod(0o755)
        disk, packed = work / "disk.raw", _packed_root(work, (*_PACKAGES, *_TOOLS[layout]))
        with disk.open("wb") as file:
            file.truncate(SIZE)
        if layout == "ext4":
            _on_a_partition(disk, work, packed)
        else:
            run(["/usr/bin/python3", _LAY_OUT, built(CACHE.parent), layout, disk, packed], timeout=1200)
        disk.rename(image)


def _on_a_partition(disk: Path, work: Path, packed: Path) -> None:
    """Lay it out on one ext4 partition, beside an EFI system partition."""
    root = work / "root"
    root.mkdir()
    run(["tar", "-C", root, "--exclude=./dev/*", "-xf", packed], timeout=300)
    packed.unlink()
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], input=_TABLE.encode())
    geometry = ["-T", "65536", "-h", "64", "-s", "32", "-c", "4", "-H", str(ESP_START // 512)]
    run(["mformat", "-i", f"{disk}@@{ESP_START}", "-v", "ESP", *geometry, "::"])
    words: list[str | Path] = ["mke2fs", "-q", "-t", "ext4", "-L", "plain", "-d", root]
    words += ["-O", "^metadata_csum_seed,^orphan_file"]
    words += ["-E", f"offset={ROOT_START},assume_storage_prezeroed=1,nodiscard"]
    run([*words, disk, f"{(SIZE - ROOT_START - (1 << 20)) // 1024}k"], timeout=300)
    run(["/usr/bin/python3", "-c", _LOADERS, disk], timeout=600)


def _packed_root(work: Path, packages: tuple[str, ...]) -> Path:
    packed, script = work / "root.tar", work / "customize"
    script.write_text(_CUSTOMIZE)
    (work / "tmp").mkdir()
    words: list[str | Path] = [
        *(
            "setpriv",
            "--pdeathsig",
            "KILL",
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "--pid",
            "--fork",
        ),
        *("--kill-child", "--", "mmdebstrap", "--variant=minbase", "--mode=root", "--format=tar"),
        *("--architectures=amd64", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"),
        *(f"--include={','.join(packages)}", '--aptopt=APT::Install-Recommends "false"'),
        *(f"--aptopt={option}" for option in _host_apt_options()),
        f'--customize-hook=sh {script} "$1"',
        *("bookworm", packed, *_sources(Recipe())),
    ]
    stream(words, line=lambda line: None, timeout=1200, env={"TMPDIR": str(work / "tmp")})
    return packed


def prepared(layout: Layout = "ext4") -> tuple[Path, list[str]]:
    """Return the plain image made ready, and what was changed in it; made once for each state of the code.

    In a virtual machine without KVM it takes minutes to make an initramfs.
    """
    origin = plain(layout)
    sums = hashlib.sha256(origin.name.encode())
    for folder in (readiness, appliance, debian):  # debian: files that a preparation writes too
        top = Path(folder.__file__).parent
        for file in sorted(path for path in top.rglob("*") if path.is_file() and path.suffix != ".pyc"):
            sums.update(file.read_bytes())
    image = CACHE / f"prepared-{sums.hexdigest()[:16]}.raw"
    said = image.with_suffix(".json")
    with (CACHE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not said.exists():
            run(["cp", "--sparse=always", "--reflink=auto", origin, image])
            found = prepare(Appliance(cache=CACHE.parent), Backing("file", str(image)), lambda *_: None)
            said.write_text(
                json.dumps({"changes": found.changes, "report": found.report.model_dump(mode="json")})
            )
    known = json.loads(said.read_text())
    assert not Report.model_validate(known["report"]).blocked
    return image, known["changes"]
