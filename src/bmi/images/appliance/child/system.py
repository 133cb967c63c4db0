"""Finds the operating system of a disk and mounts it inside the appliance."""

import re
from dataclasses import dataclass, field
from typing import Any

RELEASE_FILES = ("/etc/os-release", "/usr/lib/os-release", "/etc/redhat-release")
DISK = "/dev/sda"
_ROOTS = ("ext2", "ext3", "ext4", "xfs", "btrfs")
_ESP = ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "0xef")
"""Partition types of an EFI system partition: GPT's (UEFI specification 5.3.3), MBR's."""
_MOUNTED_TOO = ("/boot", "/boot/efi", "/efi", "/usr", "/var", "/home")
_MAPPED = re.compile(r"/dev/mapper/((?:[^-/]|--)+)-((?:[^-/]|--)+)")
"""A logical volume as device mapper names it: group, name, hyphens inside them twice (lvm(8), VALID NAMES)."""
_MOST = 64 << 10  # bytes of one small file that are looked at


class Refused(Exception):
    """The disk is not of a kind that this can be done to."""

    def __init__(self, why: str, next_step: str) -> None:
        super().__init__(why)
        self.next_step = next_step


@dataclass(frozen=True)
class Part:
    """A partition, or a logical volume, as blkid sees it."""

    device: str
    content: str
    """Type of the file system, or of what else it holds; empty if nothing is known."""
    label: str = ""
    uuid: str = ""
    kind: str = ""
    """Type of the partition: a GUID, or a number such as `0x83`."""
    id: str = ""
    """The partition's own UUID, as in PARTUUID."""
    name: str = ""

    @property
    def esp(self) -> bool:
        """Whether it is an EFI system partition."""
        return self.kind in _ESP


@dataclass
class System:
    """An operating system, mounted."""

    part: Part
    subvolume: str = ""
    """On btrfs, where its root is."""
    mounted: dict[str, str] = field(default_factory=dict)
    """Devices by the folder that they are mounted on."""


def table(g: Any) -> str | None:
    """Return the kind of partition table: `gpt`, `dos`; None where there is none."""
    return _blkid(g, DISK).get("PTTYPE")


def parts(g: Any) -> list[Part]:
    """Return the partitions, and the logical volumes on them."""
    found = [_part(g, device) for device in g.list_partitions()]
    if not found:
        found = [_part(g, DISK)]  # a file system on the whole disk
    if any(part.content == "LVM2_member" for part in found):
        g.lvm_scan(True)
        found += [_part(g, device) for device in g.lvs()]
    return found


def _part(g: Any, device: str) -> Part:
    said = _blkid(g, device)
    return Part(
        device,
        content=said.get("TYPE", ""),
        label=said.get("LABEL", ""),
        uuid=said.get("UUID", ""),
        kind=said.get("PART_ENTRY_TYPE", "").lower(),
        id=said.get("PART_ENTRY_UUID", "").lower(),
        name=said.get("PART_ENTRY_NAME", ""),
    )


def _blkid(g: Any, device: str) -> dict[str, str]:
    try:
        return dict(g.blkid(device))
    except RuntimeError:
        return {}  # there is nothing that it knows


def find(g: Any, known: list[Part], *, writable: bool) -> System | None:
    """Find the operating system and mount it, with what its fstab mounts beside it."""
    for part in known:
        if part.content in _ROOTS:
            subvolume = _root_of(g, part, writable=writable)
            if subvolume is not None:
                system = System(part, subvolume, {"/": part.device})
                _mount_others(g, system, known, writable=writable)
                return system
    return None


def mount(g: Any, device: str, folder: str, *, writable: bool, subvolume: str = "") -> None:
    """Mount a device; what a read-only look writes, as a journal's replay, goes to an overlay."""
    options = "rw" if writable else "ro"
    g.mount_options(f"{options},subvol={subvolume}" if subvolume else options, device, folder)


def text(g: Any, path: str) -> str | None:
    """Return the beginning of a small file, or None where there is none."""
    try:
        if not g.is_file(path, followsymlinks=True):
            return None
        return bytes(g.pread(path, _MOST, 0)).decode(errors="replace")
    except RuntimeError:
        return None  # a link that leads nowhere


def fstab(content: str) -> list[list[str]]:
    """Return the fields of the lines of an fstab."""
    lines = (line.split("#")[0].split() for line in content.splitlines())
    return [fields for fields in lines if len(fields) >= 3]


def _root_of(g: Any, part: Part, *, writable: bool) -> str | None:
    """Mount a file system that holds an operating system; return where, None if it holds none."""
    try:
        mount(g, part.device, "/", writable=writable)
    except RuntimeError:
        return None
    if _is_root(g, ""):
        return ""
    inner = (
        []
        if part.content != "btrfs"
        else [each["btrfssubvolume_path"] for each in g.btrfs_subvolume_list("/")]
    )
    for subvolume in inner:
        if _is_root(g, f"/{subvolume}"):
            g.umount_all()
            mount(g, part.device, "/", writable=writable, subvolume=subvolume)
            return str(subvolume)
    g.umount_all()
    return None


def _is_root(g: Any, top: str) -> bool:
    # Not followed: a link in a subvolume leads elsewhere while that is no root yet.
    return any(g.exists(top + path) or g.is_symlink(top + path) for path in RELEASE_FILES)


def _mount_others(g: Any, system: System, known: list[Part], *, writable: bool) -> None:
    entries = fstab(text(g, "/etc/fstab") or "")
    for spec, folder, _, *rest in sorted(entries, key=lambda entry: entry[1]):
        device = resolved(spec, known) if folder in _MOUNTED_TOO else None
        if device is None or not g.is_dir(folder):
            continue
        options = rest[0].split(",") if rest else []
        subvolume = next((option.partition("=")[2] for option in options if option.startswith("subvol=")), "")
        try:
            mount(g, device, folder, writable=writable, subvolume=subvolume)
        except RuntimeError:
            continue
        system.mounted[folder] = device


def resolved(spec: str, known: list[Part]) -> str | None:
    """Return the device that an fstab names."""
    kind, _, value = spec.partition("=")
    value = value.strip('"')
    for part in known:
        names = {"LABEL": part.label, "UUID": part.uuid, "PARTUUID": part.id, "PARTLABEL": part.name}
        if value and names.get(kind, "").lower() == value.lower():
            return part.device
    if plain := re.fullmatch(r"/dev/(?:(?:sd|vd|hd|xvd)a|nvme0n1p)(\d+)", spec):
        spec = f"{DISK}{plain[1]}"
    elif mapped := _MAPPED.fullmatch(spec):
        spec = f"/dev/{mapped[1]}/{mapped[2]}".replace("--", "-")
    return spec if any(part.device == spec for part in known) else None
