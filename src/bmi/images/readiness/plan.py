"""What has to be changed in a system so that it boots over iSCSI, on nodes of metal too, and as many nodes."""

import re
from collections.abc import Iterator
from pathlib import Path

import yaml

from bmi.api.readiness import Report
from bmi.errors import ImageInvalid
from bmi.images.debian.rootfs import FILES
from bmi.images.readiness.actions import Action, Copy, Empty, Install, Mount, Remove, Run, Write
from bmi.images.readiness.boot_chain import FALLBACK
from bmi.images.readiness.facts import DiskReport, System, options
from bmi.images.readiness.running import keeps_nic

CONSOLES = ("console=tty0", "console=ttyS0,115200")
_DEBIAN_OPTIONS = ("ip=dhcp", *CONSOLES)
_REDHAT_OPTIONS = ("rd.iscsi.firmware=1", "rd.neednet=1", "ip=ibft", *CONSOLES)
_DRACUT = """# Nodes have other hardware than the machine that this image was made on, and their root over iSCSI.
hostonly="no"
add_dracutmodules+=" iscsi network base "
add_drivers+=" iscsi_tcp iscsi_ibft sd_mod "
"""
_OWN = Path(__file__).parent / "files"
_NO_NODE_IS_LIKE_ANOTHER = "/etc/machine-id"


def missing_packages(system: System) -> list[str]:
    """Return the Debian packages that a system needs and does not have."""
    return [] if system.has("iscsistart") else ["open-iscsi"]


def plan(seen: DiskReport, report: Report) -> list[Action]:
    """Return the changes that a system needs.

    Args:
        seen: What is in the disk.
        report: What the check said of it.

    Raises:
        ImageInvalid: It is no system that this can be done to; the error says why.
    """
    system = _preparable(seen)
    codes = {finding.code for finding in report.findings}
    actions = [*_by_family(system)]
    actions += _network(system)
    actions += _fstab(system)
    if "cloud-init-no-nocloud" in codes or "cloud-init-off" in codes:
        actions += _cloud_init()
    actions += _identity(system)
    actions += _command_line(system)
    actions += _uefi(seen, system)
    actions += _rebuild(system)
    return actions


def _preparable(seen: DiskReport) -> System:
    system = seen.system
    if system is None:
        raise ImageInvalid(
            "there is no Linux in the image that could be prepared", next_step="see: bmi image check"
        )
    if not system.family:
        raise ImageInvalid(
            f"{system.name} cannot be prepared: only the families of Debian and of Red Hat are known",
            next_step="prepare it by hand; bmi image check says what is missing",
        )
    if not system.kernels:
        raise ImageInvalid("there is no kernel in the image", next_step="install one in the image")
    if system.family == "redhat" and not _has_dracut_iscsi(system):
        raise ImageInvalid(
            "the image lacks iscsi-initiator-utils and dracut-network, and BMI has no packages for it",
            next_step="install both in the image: dnf install iscsi-initiator-utils dracut-network",
        )
    return system


def _has_dracut_iscsi(system: System) -> bool:
    modules = [name for name in system.names if re.search(r"/dracut/modules\.d/\d+\w*iscsi$", name)]
    return system.has("dracut") and system.has("iscsistart") and bool(modules)


def _by_family(system: System) -> Iterator[Action]:
    if system.family == "redhat":
        yield Write(
            path="/etc/dracut.conf.d/90-bmi.conf", content=_DRACUT, why="dracut puts iSCSI and all drivers in"
        )
        return
    if missing_packages(system):
        yield Install(why="open-iscsi is installed")
    yield _ours(
        "common", "/etc/iscsi/iscsi.initramfs", "the initramfs takes its disk from the firmware (iBFT)"
    )
    yield _ours("common", "/etc/udev/rules.d/61-iscsi-root.rules", "a node waits a day for a lost gateway")
    yield _ours(
        "generic",
        "/etc/initramfs-tools/scripts/init-premount/ibft",
        "the initramfs takes its network from the firmware",
    )
    yield from _drivers(system)


def _drivers(system: System) -> Iterator[Action]:
    """Put the drivers of network cards into the initramfs, and leave those of local disks out."""
    why = "the initramfs has the drivers of servers' network cards, and none of local disks"
    hook = (_OWN / "network-boot-modules").read_text().replace("@FILE_SYSTEM@", system.type)
    yield Write(path="/etc/initramfs-tools/hooks/bmi-network-boot", content=hook, mode=0o755, why=why)
    yield Write(path="/etc/initramfs-tools/conf.d/bmi-modules", content="MODULES=list\n", why=why)


def _ours(tree: str, path: str, why: str) -> Write:
    """Return the writing of a file that BMI's own golden images have too."""
    content = (Path(FILES) / tree / path.lstrip("/")).read_text()
    return Write(path=path, content=content, mode=0o755 if content.startswith("#!") else 0o644, why=why)


def _network(system: System) -> Iterator[Action]:
    """Keep the card of the root up until the end, whoever looks after it."""
    why = "systemd-networkd keeps the card of the root up at shutdown"
    if system.family == "debian" and not system.has("ifup"):
        yield _ours(
            "common", "/etc/udev/rules.d/70-iscsi-network-interface.rules", "udev leaves the card to networkd"
        )
    if keeps_nic(system):
        return
    if system.has("netplan"):
        yield from _netplan(system)
        return
    if system.cloud_init:
        yield _ours("cloud-init", "/usr/lib/bmi/keep-root-nic", why)
        yield _ours("cloud-init", "/etc/systemd/system/systemd-networkd.service.d/bmi.conf", why)
        return
    files = [path for path in system.texts if re.fullmatch(r"/etc/systemd/network/[^/]+\.network", path)]
    keep = "[Network]\nKeepConfiguration=yes\n\n[DHCPv4]\nClientIdentifier=mac\n"
    for path in files:
        yield Write(path=f"{path}.d/bmi.conf", content=keep, why=f"{why} ({path})")
    if not files:
        yield _ours("common", "/etc/systemd/network/10-wired.network", why)


def _netplan(system: System) -> Iterator[Action]:
    names = set()
    for path, content in system.texts.items():
        if path.startswith("/etc/netplan/"):
            try:
                names |= set(yaml.safe_load(content)["network"]["ethernets"])
            except (yaml.YAMLError, KeyError, TypeError):
                continue  # netplan cannot read it either
    cards = {str(name): {"critical": True} for name in sorted(map(str, names))}
    if cards:
        yield Write(
            path="/etc/netplan/99-bmi.yaml",
            content=yaml.safe_dump({"network": {"version": 2, "ethernets": cards}}),
            mode=0o600,
            why="netplan keeps the card of the root up at shutdown",
        )


def _fstab(system: System) -> Iterator[Action]:
    text = system.text("/etc/fstab")
    lines = [_fstab_line(line, system) for line in text.splitlines()]
    new = "".join(f"{line}\n" for line in lines)
    if text and new != text:
        yield Write(path="/etc/fstab", content=new, why="/etc/fstab: the root needs the network, no swap")


def _fstab_line(line: str, system: System) -> str:
    fields = line.split()
    if line.lstrip().startswith("#") or len(fields) < 3:
        return line
    if fields[2] == "swap":
        return f"# {line}"
    if fields[1] != "/":
        return line
    if fields[0].startswith("/dev/sd") or fields[0].startswith("/dev/vd"):
        fields[0] = f"UUID={system.uuid}"
    wanted = fields[3].split(",") if len(fields) > 3 else ["defaults"]
    if "_netdev" in wanted and fields[0] in line:
        return line
    options = [*wanted, "_netdev"] if "_netdev" not in wanted else wanted
    return " ".join([*fields[:3], ",".join(options), *fields[4:]])


def _cloud_init() -> Iterator[Action]:
    yield Remove(path="/etc/cloud/cloud-init.disabled", why="cloud-init is switched on")
    yield Write(
        path="/etc/cloud/cloud.cfg.d/99_bmi.cfg",
        content="datasource_list: [NoCloud, None]\n",
        why="cloud-init reads BMI's seed",
    )


def _identity(system: System) -> Iterator[Action]:
    yield Empty(path=_NO_NODE_IS_LIKE_ANOTHER, why="the machine id is emptied: each node makes its own")
    yield Remove(path="/etc/ssh/ssh_host_*", why="SSH host keys are removed: each node has its own")
    yield Remove(path="/var/lib/systemd/random-seed", why="the random seed is removed")


def _command_line(system: System) -> Iterator[Action]:
    """Write the options where the next kernel's entry is made from, and into the entries that there are.

    GRUB's configuration is not made anew: in a virtual machine without KVM that takes minutes.
    """
    lines = system.command_lines()
    wanted = _REDHAT_OPTIONS if system.family == "redhat" else _DEBIAN_OPTIONS
    missing = [word for word in wanted if not _says(lines, word)]
    root = f"UUID={system.uuid}" if any(_by_device(line) for line in lines) else ""
    if not missing and not root:
        return
    said = [*([f"root={root}"] if root else []), *missing]
    why = f"the kernel's command line says {' '.join(said)}"
    if system.family == "debian":
        content = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {" ".join(wanted)}"\n'
        yield Write(path="/etc/default/grub.d/99-bmi.cfg", content=content, why=f"{why}, for kernels to come")
    elif (line := system.text("/etc/kernel/cmdline").strip()) and missing:
        content = f"{line} {' '.join(missing)}\n"
        yield Write(path="/etc/kernel/cmdline", content=content, why=f"{why}, for kernels to come")
    if system.has("grubby"):
        yield Run(command=f"grubby --update-kernel=ALL --args='{' '.join(said)}'", always=True, why=why)
    else:
        yield from _edited_entries(system, missing, root, why)


def _by_device(line: str) -> bool:
    return any(re.match(r"/dev/(sd|vd|xvd|hd|nvme)", value) for value in options(line, "root"))


def _says(lines: list[str], word: str) -> bool:
    name = word.partition("=")[0]
    return bool(lines) and all(
        word in line.split() or (name == "ip" and bool(options(line, "ip"))) for line in lines
    )


def _edited_entries(system: System, missing: list[str], root: str, why: str) -> Iterator[Action]:
    for path, content in system.texts.items():
        if not path.startswith(("/boot/grub/grub.cfg", "/boot/grub2/grub.cfg", "/boot/loader/entries/")):
            continue
        new = content
        if root:
            new = re.sub(r"root=/dev/\S+", f"root={root}", new)
        if missing:
            entry = r"(?m)^([ \t]*(?:linux(?:16|efi)?[ \t]+\S+|options)[ \t].*\S)[ \t]*$"
            new = re.sub(entry, lambda found: f"{found[1]} {' '.join(missing)}", new)
        if new != content:
            yield Write(path=path, content=new, mode=0o600 if "/grub" in path else 0o644, why=why)


def _uefi(seen: DiskReport, system: System) -> Iterator[Action]:
    """Put a loader where UEFI firmware looks on a disk that it does not know."""
    loaders = seen.loaders or ()
    if not loaders or FALLBACK in loaders:
        return
    esp = next(part.device for part in seen.disk.partitions if part.type.startswith(("c12a7328", "0xef")))
    top = next((folder for folder, device in system.mounted.items() if device == esp), None)
    if top is None:
        top = "/boot/efi"
        yield Mount(device=esp, path=top, why="mounting the EFI system partition")
    why = "a loader lies where UEFI firmware looks on a network disk (EFI/BOOT/BOOTX64.EFI)"
    shim = next((path for path in loaders if path.endswith("/shimx64.efi")), None)
    grub = next((path for path in loaders if path.endswith("/grubx64.efi")), None)
    first = shim or grub or loaders[0]
    yield Copy(origin=f"{top}{first}", to=f"{top}/EFI/BOOT/BOOTX64.EFI", why=why)
    if shim and grub:  # what the signed shim starts next lies beside it
        yield Copy(origin=f"{top}{grub}", to=f"{top}/EFI/BOOT/grubx64.efi", why=f"{why}, with what it starts")


def _rebuild(system: System) -> Iterator[Action]:
    why = "the initramfs is made anew"
    if system.has("update-initramfs"):
        yield Run(command="update-initramfs -u -k all", why=why)
    elif system.has("dracut"):
        yield Run(command="dracut --force --regenerate-all", why=why)
