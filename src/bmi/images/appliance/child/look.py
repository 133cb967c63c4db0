"""Collects what decides whether a disk boots over iSCSI. It judges nothing: that is done outside."""

import fnmatch
import re
import tarfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bmi.images.appliance.child import initramfs
from bmi.images.appliance.child.system import DISK, Part, System, find, parts, table, text

_BIOS_BOOT = "21686148-6449-6e6f-744e-656564454649"  # partition type GUID of GRUB's core
_BOOT_CODE = 440  # bytes of the first sector; what follows belongs to the partition table
_MOST_NAMES = 20_000
_LARGEST_INITRAMFS = 600 << 20  # bytes

_TEXTS = (
    *(
        "/etc/os-release",
        "/etc/redhat-release",
        "/etc/fstab",
        "/etc/hostname",
        "/etc/machine-id",
        "/etc/passwd",
    ),
    *("/etc/default/grub", "/etc/default/grub.d/*.cfg", "/etc/kernel/cmdline"),
    *("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/grub2/grubenv", "/boot/loader/entries/*.conf"),
    *("/etc/iscsi/iscsi.initramfs", "/etc/iscsi/initiatorname.iscsi"),
    *("/etc/initramfs-tools/initramfs.conf", "/etc/initramfs-tools/modules", "/etc/initramfs-tools/conf.d/*"),
    *("/etc/dracut.conf", "/etc/dracut.conf.d/*.conf", "/etc/selinux/config"),
    *("/etc/cloud/cloud.cfg", "/etc/cloud/cloud.cfg.d/*.cfg", "/etc/cloud/ds-identify.cfg"),
    *("/etc/systemd/network/*.network", "/etc/systemd/network/*.network.d/*.conf"),
    *("/etc/netplan/*.yaml", "/etc/network/interfaces", "/etc/network/interfaces.d/*"),
    *("/etc/NetworkManager/system-connections/*", "/etc/NetworkManager/conf.d/*.conf"),
)
_LISTED = ("/boot", "/usr/lib/bmi", "/usr/lib/dracut/modules.d")
_SMALL = 64 << 10  # bytes of a file that is looked at
_FOLDERS = ("/usr/bin", "/usr/sbin", "/sbin", "/lib/modules", "/root", "/usr/lib/systemd/system")
_PROGRAMS = re.compile(
    r"/(cloud-init|sshd|iscsid|iscsistart|iscsiadm|update-initramfs|dracut|grub2?-install|update-grub|"
    r"grub2-mkconfig|grubby|netplan|NetworkManager|apt-get|dnf|rpm|dpkg|restorecon|setfiles|"
    r"(ssh|sshd|systemd-networkd)\.(service|socket))$"
)


def look(g: Any, request: Mapping[str, Any], tell: Callable[[str, float], None]) -> dict[str, Any]:
    """Look at a disk and return what is there, as JSON."""
    known = parts(g)
    loaders = _efi_loaders(g, known)
    system = find(g, known, writable=False)
    tell("reading its configuration", 0.4)
    found: dict[str, Any] = {"disk": _disk(g, known), "loaders": loaders, "system": None}
    if system is not None:
        found["system"] = _system(g, system, tell)
        if request.get("packages"):
            found["packages"] = _packages(g)
    return found


def _disk(g: Any, known: list[Part]) -> dict[str, Any]:
    kind = table(g)
    first = bytes(g.pread_device(DISK, 1024, 0))
    return {
        "table": kind,
        "partitions": [{"device": part.device, "content": part.content, "type": part.kind} for part in known],
        "boot_code": any(first[:_BOOT_CODE]) and first[510:512] == b"\x55\xaa",
        "bios_core": _bios_core(g, kind, known, first),
    }


def _bios_core(g: Any, kind: str | None, known: list[Part], first: bytes) -> bool:
    """Say whether something follows that the code in the first sector could start."""
    if kind != "gpt":
        return any(first[512:])
    cores = [part.device for part in known if part.kind == _BIOS_BOOT]
    return any(any(bytes(g.pread_device(device, 512, 0))) for device in cores)


def _efi_loaders(g: Any, known: list[Part]) -> list[str] | None:
    """Return the files of the EFI system partition, in small letters; None where there is none."""
    esp = next((part for part in known if part.esp), None)
    if esp is None:
        return None
    try:
        g.mount_ro(esp.device, "/")
        return [f"/{name}".lower() for name in _found(g, "/") if name.lower().endswith(".efi")]
    except RuntimeError:
        return []
    finally:
        g.umount_all()


def _system(g: Any, system: System, tell: Callable[[str, float], None]) -> dict[str, Any]:
    names, texts = _etc(g)
    names += [f"{top}/{name}" for top in _LISTED if g.is_dir(top) for name in _found(g, top)]
    programs = set()
    for folder in _FOLDERS:
        if g.is_dir(folder, followsymlinks=True):
            programs |= {f"{folder}/{name}" for name in g.ls(folder)[:_MOST_NAMES]}
    beside = ["/etc/os-release", *_matching(name for name in names if name.startswith("/boot/"))]
    texts |= {path: content for path in beside if (content := text(g, path)) is not None}
    tell("reading its initramfs", 0.7)
    return {
        "device": system.part.device,
        "type": system.part.content,
        "label": system.part.label,
        "uuid": system.part.uuid,
        "subvolume": system.subvolume,
        "mounted": system.mounted,
        "names": sorted(_kept(names)),
        "programs": sorted(path for path in programs if _PROGRAMS.search(path)),
        "modules": sorted(path.rsplit("/", 1)[1] for path in programs if path.startswith("/lib/modules/")),
        "texts": texts,
        "initramfs": _initramfs(g, names),
        "builtin": _builtin(g, programs),
    }


def _etc(g: Any) -> tuple[list[str], dict[str, str]]:
    """Return the names in /etc, and the small files that matter; in one call, for each costs its time."""
    local = Path("/tmp/etc.tar")  # noqa: S108 - the sandbox's own
    g.tar_out("/etc", str(local), excludes=["./ssl/*", "./alternatives/*", "./pki/*", "./fonts/*"])
    names, texts = [], {}
    with tarfile.open(local) as tar:
        for entry in tar:
            name = f"/etc/{entry.name.removeprefix('./')}"
            names.append(name)
            wanted = entry.isfile() and entry.size <= _SMALL and _matching([name])
            if wanted and (content := tar.extractfile(entry)) is not None:
                texts[name] = content.read().decode(errors="replace")
    local.unlink()
    return names[:_MOST_NAMES], texts


def _found(g: Any, top: str) -> list[str]:
    return [str(name).lstrip("/") for name in g.find(top)[:_MOST_NAMES]]


def _matching(names: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in _TEXTS)]


def _kept(names: Iterable[str]) -> list[str]:
    """Leave out what no rule asks for."""
    prefixes = (
        *("/boot/", "/usr/lib/bmi/", "/etc/ssh/", "/etc/systemd/system/", "/etc/iscsi/"),
        *(
            "/usr/lib/dracut/modules.d/",
            "/etc/udev/rules.d/",
            "/etc/initramfs-tools/",
            "/etc/machine-id",
            "/etc/cloud/cloud-init.d",
        ),
    )
    return [
        name
        for name in names
        if name.startswith(prefixes) and not name.endswith((".mod", ".lst", ".mo", ".pf2", ".module"))
    ]


def _initramfs(g: Any, names: Iterable[str]) -> dict[str, Any] | None:
    """Read the initramfs of the newest kernel."""
    path = newest_initramfs(names)
    if path is None:
        return None
    if g.filesize(path) > _LARGEST_INITRAMFS:
        return {"path": path, "trouble": "it is too large to be read", "names": [], "texts": {}}
    local = Path("/tmp/initramfs")  # noqa: S108 - the sandbox's own
    g.download(path, str(local))
    try:
        content = initramfs.read(local)
    except initramfs.Unreadable as error:
        return {"path": path, "trouble": str(error), "names": [], "texts": {}}
    finally:
        local.unlink()
    kept = [name for name in content.names if "iscsi" in name or ".ko" in name or "cmdline" in name]
    return {"path": path, "trouble": "", "names": kept[:_MOST_NAMES], "texts": content.texts}


def newest_initramfs(names: Iterable[str]) -> str | None:
    """Return the path of the newest kernel's initramfs; rescue images and kdump's are none."""
    found = [
        name
        for name in names
        if re.fullmatch(r"/boot/(initrd\.img-|initrd-|initramfs-)[^/]+", name)
        and not re.search(r"rescue|kdump|\.old|\.bak|\.new|dpkg", name)
    ]
    return max(found, key=_by_number, default=None)


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _builtin(g: Any, folders: set[str]) -> list[str]:
    """Return the names of what is built into the newest kernel."""
    versions = [path for path in folders if path.startswith("/lib/modules/")]
    if not versions:
        return []
    path = f"{max(versions, key=_by_number)}/modules.builtin"
    if not g.is_file(path, followsymlinks=True):
        return []
    content = bytes(g.pread(path, 1 << 20, 0)).decode(errors="replace")
    return [line.rsplit("/", 1)[-1].removesuffix(".ko") for line in content.split()]


def _packages(g: Any) -> list[list[str]]:
    """Return what is installed on a Debian: name, version, architecture."""
    status = "/var/lib/dpkg/status"
    if not g.is_file(status, followsymlinks=True):
        return []
    local = Path("/tmp/status")  # noqa: S108 - the sandbox's own
    g.download(status, str(local))
    found = []
    for paragraph in local.read_text(errors="replace").split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed") and len(fields) == 4:
            found.append([fields["Package"], fields["Version"], fields["Architecture"]])
    return found
