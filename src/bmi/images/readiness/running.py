"""The system once it runs from a network disk, and as many different nodes."""

import re
from collections.abc import Iterator

from bmi.api.readiness import Finding, Severity
from bmi.images.readiness.facts import DiskReport, System, fstab

_PREPARE = "have it made ready: bmi image prepare"
_ENABLED = "/etc/systemd/system/multi-user.target.wants"


def recognised(system: System) -> Iterator[Finding]:
    """Look at whether this is a system that the rules were made for."""
    if not system.family:
        yield Finding(
            code="unknown-system",
            severity=Severity.WARNS,
            message=f"{system.name} is no system that BMI knows; what is said here may be wrong",
            next_step="boot a node from the image to see whether it works",
        )


def network(system: System) -> Iterator[Finding]:
    """Look at whether the card that carries the root stays up until the end."""
    if not system.has("iscsid"):
        yield Finding(
            code="no-iscsid",
            severity=Severity.WARNS,
            message="iscsid is not installed: a node does not come back after its gateway was away",
            next_step=_PREPARE,
        )
    if not keeps_nic(system):
        yield Finding(
            code="nic-not-kept",
            severity=Severity.WARNS,
            message="systemd-networkd takes the network away at shutdown, and the root file system with it: "
            "shutting down hangs",
            next_step=_PREPARE,
        )


def keeps_nic(system: System) -> bool:
    """Say whether the running system leaves the card of the root alone at shutdown."""
    if f"{_ENABLED}/systemd-networkd.service" not in system.names:
        return True  # what else there is looks at where the root is
    if system.has("netplan"):
        # BMI's seed says `critical`; without cloud-init somebody has to say so.
        return system.cloud_init or "critical: true" in "\n".join(system.lines("/etc/netplan/"))
    if "/usr/lib/bmi/keep-root-nic" in system.names:
        return True
    kept = re.compile(r"KeepConfiguration\s*=\s*(yes|true|on|static|dhcp|dhcp-on-stop)", re.IGNORECASE)
    files = _network_files(system)
    return bool(files) and all(any(kept.search(line) for line in lines) for lines in files.values())


def _network_files(system: System) -> dict[str, list[str]]:
    """Return the lines of networkd's files, with those of the files that add to them."""
    top = "/etc/systemd/network/"
    return {
        path: list(system.lines(path, f"{path}.d/"))
        for path in system.texts
        if path.startswith(top) and path.endswith(".network")
    }


def file_systems(seen: DiskReport, system: System) -> Iterator[Finding]:
    """Look at what is mounted, and at swap."""
    entries = list(fstab(system.text("/etc/fstab")))
    for spec, folder, type, options in entries:
        if type == "swap":
            continue
        if re.match(r"/dev/(sd|vd|xvd|hd|nvme)", spec) and "nofail" not in options:
            yield Finding(
                code="fstab-by-device",
                severity=Severity.WARNS,
                message=f"/etc/fstab mounts {folder} from {spec}, which can be another disk on a node",
                next_step=f"name it by LABEL or UUID, or {_PREPARE}",
            )
        if folder == "/" and "_netdev" not in options:
            yield Finding(
                code="fstab-no-netdev",
                severity=Severity.WARNS,
                message="/etc/fstab does not say that the root file system needs the network (_netdev)",
                next_step=_PREPARE,
            )
    if any(type == "swap" for _, _, type, _ in entries):
        yield Finding(
            code="swap",
            severity=Severity.WARNS,
            message="/etc/fstab has swap: a node that swaps over the network can lock itself up",
            next_step=_PREPARE,
        )
    elif any(part.content == "swap" for part in seen.disk.partitions):
        yield Finding(
            code="swap-partition",
            severity=Severity.INFO,
            message="the disk has a swap partition; nodes do not use it, unless the system finds it by itself",
            next_step="nothing, or remove it from the image",
        )


def first_boot(system: System) -> Iterator[Finding]:
    """Look at how a clone becomes a node of its own."""
    if not system.has("sshd"):
        yield Finding(
            code="no-ssh-server",
            severity=Severity.WARNS,
            message="there is no SSH server: nobody can log in to a node",
            next_step="install openssh-server in the image",
        )
    if system.cloud_init:
        yield from _cloud_init(system)
    elif not system.first_boot:
        yield Finding(
            code="no-seed-reader",
            severity=Severity.INFO,
            message="neither cloud-init nor BMI's first boot is in it: keys and host name are written into each "
            "clone before it boots, and user data is ignored",
            next_step="nothing, or install cloud-init in the image",
        )


def _cloud_init(system: System) -> Iterator[Finding]:
    if "/etc/cloud/cloud-init.disabled" in system.names:
        yield Finding(
            code="cloud-init-off",
            severity=Severity.BLOCKS,
            message="cloud-init is switched off by /etc/cloud/cloud-init.disabled: no key gets into a node",
            next_step="remove that file in the image",
        )
    said = [
        match[1]
        for line in system.lines("/etc/cloud/")
        if (match := re.match(r"datasource_list:\s*\[(.*)\]", line))
    ]
    if said and "NoCloud" not in re.split(r"[\s,'\"]+", said[-1]):
        yield Finding(
            code="cloud-init-no-nocloud",
            severity=Severity.BLOCKS,
            message=f"cloud-init looks for its data in {said[-1].strip()} only: it does not read BMI's seed",
            next_step=f"add NoCloud to datasource_list, or {_PREPARE}",
        )


def identity(system: System) -> Iterator[Finding]:
    """Look at what must not be the same on two nodes."""
    machine = system.text("/etc/machine-id").strip()
    if machine and machine != "uninitialized":
        yield Finding(
            code="machine-id",
            severity=Severity.WARNS,
            message="/etc/machine-id is set: all nodes have the same, and with it the same DHCP identity",
            next_step=_PREPARE,
        )
    keys = [name for name in system.names if re.fullmatch(r"/etc/ssh/ssh_host_\w+_key", name)]
    if keys:
        renewed = system.cloud_init or system.first_boot
        yield Finding(
            code="host-keys",
            severity=Severity.INFO if renewed else Severity.WARNS,
            message="the image has SSH host keys"
            + ("; they are made anew at a node's first boot" if renewed else ": all nodes have the same"),
            next_step=_PREPARE,
        )
