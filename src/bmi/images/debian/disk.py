"""A root file system laid out as a disk that boots on BIOS and on UEFI. Nothing is mounted or attached."""

from dataclasses import dataclass
from pathlib import Path

from bmi.images.debian import grub
from bmi.run import run

_MIB = 1024**2
_MKFS_TIMEOUT = 300.0  # seconds; it writes some hundred megabytes


@dataclass(frozen=True)
class _Partition:
    name: str
    type: str
    """Partition type GUID (UEFI specification 5.3.3)."""
    start: int
    size: int
    """Bytes."""

    def line(self) -> str:
        """As sfdisk reads it."""
        start, size = self.start // grub.SECTOR, self.size // grub.SECTOR
        return f'start={start}, size={size}, type={self.type}, name="{self.name}"'


_BIOS_BOOT = _Partition("bios", "21686148-6449-6E6F-744E-656564454649", 1 * _MIB, 1 * _MIB)
_ESP = _Partition("esp", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", 4 * _MIB, 32 * _MIB)
_ROOT_TYPE = "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"  # root file system for x86-64
_ROOT_NUMBER = 3
# On 4 MiB, so that a block of the file system never lies in two objects of a block store.
_ROOT_START = _ESP.start + _ESP.size
_BACKUP_TABLE = 1 * _MIB  # room for the second partition table at the end


def assemble(root: Path, disk: Path, *, size: int, label: str, as_root: tuple[str, ...] = ()) -> None:
    """Make a disk from a folder.

    Args:
        root: The root file system.
        disk: File to make; its folder also takes the intermediate files.
        size: Bytes of the disk.
        label: Label of the root file system.
        as_root: Words to put before a command so that it sees the true owners of the files.

    Raises:
        CommandFailed: A tool is not installed, or the files do not fit.
    """
    partition = _Partition("root", _ROOT_TYPE, _ROOT_START, size - _ROOT_START - _BACKUP_TABLE)
    with disk.open("wb") as file:
        file.truncate(size)
    table = ["label: gpt", *(part.line() for part in (_BIOS_BOOT, _ESP, partition))]
    run(["sfdisk", "--quiet", "--no-reread", "--no-tell-kernel", disk], input="\n".join(table).encode())
    _make_bootable(disk)
    _fill(root, disk, partition, label, as_root)


def _make_bootable(disk: Path) -> None:
    work = disk.parent
    core_sector = _BIOS_BOOT.start // grub.SECTOR
    core = grub.bios_core(work, partition=_ROOT_NUMBER)
    with disk.open("r+b") as file:
        file.write(grub.boot_code(core_sector))
        file.seek(_BIOS_BOOT.start)
        file.write(grub.placed(core, core_sector))
    loader = work / "BOOTX64.EFI"
    loader.write_bytes(grub.uefi_loader(work, partition=_ROOT_NUMBER))
    esp = f"{disk}@@{_ESP.start}"
    # The size in sectors, an invented geometry, and the start of the partition, which stands in the FAT header.
    sectors, start = str(_ESP.size // grub.SECTOR), str(_ESP.start // grub.SECTOR)
    geometry = ["-T", sectors, "-h", "64", "-s", "32", "-c", "4", "-H", start]
    run(["mformat", "-i", esp, "-v", "ESP", *geometry, "::"])
    run(["mmd", "-i", esp, "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", "-i", esp, loader, "::/EFI/BOOT/BOOTX64.EFI"])


def _fill(root: Path, disk: Path, partition: _Partition, label: str, as_root: tuple[str, ...]) -> None:
    words: list[str | Path] = [*as_root, "mke2fs", "-q", "-t", "ext4", "-L", label, "-d", root, "-m", "1"]
    # Enough for the little that a root file system writes at once; the default is 64 MiB of every clone.
    words += ["-J", "size=16"]
    # GRUB 2.06 cannot read a file system that has these.
    words += ["-O", "^metadata_csum_seed,^orphan_file"]
    # The file is new, so what is not written is zero: neither mke2fs nor the node has to write zeros over it.
    words += ["-E", f"offset={partition.start},assume_storage_prezeroed=1,nodiscard"]
    run([*words, disk, f"{partition.size // 1024}k"], timeout=_MKFS_TIMEOUT)
