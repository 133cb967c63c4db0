"""The root file system: Debian packages, and the files that make it boot over iSCSI and become a node."""

import io
import os
import re
import shlex
import tarfile
from collections.abc import Callable
from pathlib import Path

from bmi.images.debian.recipe import Kernel, Recipe
from bmi.run import run, stream

FILES = Path(__file__).parent / "files"

_TIMEOUT = 1200.0  # seconds for all packages; a slow mirror takes minutes
_UNPACK_TIMEOUT = 300.0  # seconds

_PACKAGES = (
    "systemd-sysv", "udev", "kmod", "initramfs-tools", "open-iscsi", "openssh-server", "iproute2",
    "iputils-ping", "busybox", "procps", "wget",
    "netcat-openbsd", "usr-is-merged",
)  # fmt: skip
_CLOUD_INIT = ("cloud-init", "sudo", "systemd-resolved")

_NOT_UNPACKED = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)

_KERNEL_ARGUMENTS = {
    # A virtual machine has one NIC, whatever the name; auditing costs each system call.
    Kernel.CLOUD: ("ro", "audit=0", "net.ifnames=0"),
    Kernel.GENERIC: ("ro", "ip=dhcp"),
}
_CONSOLE = ("console=tty0", "console=ttyS0,115200", "panic=10", "quiet")

# What mmdebstrap says on the way, and how much of the work is done by then (seconds of a real build).
_STAGES = (
    ("running apt-get update", "reading package lists", 0.02),
    ("downloading packages", "downloading packages", 0.10),
    ("extracting archives", "unpacking the base system", 0.25),
    ("installing essential", "installing the base system", 0.30),
    ("installing remaining", "installing packages", 0.40),
    ("cleaning package", "cleaning up", 0.93),
    ("creating tarball", "packing the root file system", 0.95),
)

Progress = Callable[[str, float], None]


def make(recipe: Recipe, work: Path, progress: Progress) -> tuple[Path, tuple[str, ...]]:
    """Make the root file system as a folder.

    Args:
        recipe: What goes in.
        work: Folder to work in.
        progress: Told what is going on, and the fraction of the work that is done.

    Returns:
        The folder, and the words to put before a command so that it sees the files' true owners.

    Raises:
        CommandFailed: A tool is not installed, or a package cannot be had.
        CommandTimedOut: The packages did not come in time.
    """
    packed = work / "root.tar"
    overlay = work / "overlay.tar"
    _write_overlay(recipe, overlay)
    _bootstrap(recipe, packed, overlay, work, progress)
    folder = work / "root"
    folder.mkdir()
    as_root = _as_root(work)
    run([*as_root, "tar", "-C", folder, "--exclude=./dev/*", "-xf", packed], timeout=_UNPACK_TIMEOUT)
    packed.unlink()
    return folder, as_root


def _bootstrap(recipe: Recipe, packed: Path, overlay: Path, work: Path, progress: Progress) -> None:
    # The clean-up of a killed mmdebstrap goes with its work folder, so that is ours too.
    temporary = work / "tmp"
    temporary.mkdir(mode=0o755)
    customize = shlex.quote(str(FILES / "customize"))
    words: list[str | Path] = [
        "setpriv", "--pdeathsig", "TERM",
        "mmdebstrap", "--variant=minbase", f"--mode={'root' if _is_root() else 'unshare'}",
        "--format=tar", "--architectures=amd64", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        f"--include={','.join(_packages(recipe))}",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--aptopt={option}" for option in _host_apt_options()),
        *(f"--dpkgopt={option}" for option in _NOT_UNPACKED),
        f"--essential-hook=tar-in {shlex.quote(str(overlay))} /",
        f'--customize-hook={customize} {recipe.kernel} "$1"',
        recipe.suite, packed, *_sources(recipe),
    ]  # fmt: skip

    def tell(line: str) -> None:
        for said, meaning, fraction in _STAGES:
            if line.startswith(f"I: {said}"):
                progress(meaning, fraction)

    stream(words, line=tell, timeout=_TIMEOUT, env={"TMPDIR": str(temporary)})


def _packages(recipe: Recipe) -> list[str]:
    extra = _CLOUD_INIT if recipe.cloud_init else ()
    return sorted({recipe.kernel.package, *_PACKAGES, *extra, *recipe.packages})


def _sources(recipe: Recipe) -> list[str]:
    """The apt sources to install from; empty for mmdebstrap's own idea of them."""
    if recipe.mirror is not None:
        return [recipe.mirror]
    fields = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(CODENAME)"
    found = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages", "Origin: Debian"])
    sources = []
    for line in found.splitlines():
        uri, release, component, codename = line.split()
        if codename.split("-")[0] == recipe.suite:
            sources.append(f"deb {uri} {release} {component}")
    return sorted(set(sources))


def _host_apt_options() -> list[str]:
    """How this host's apt reaches its mirror: proxies, and what it makes of the date."""
    dump = run(["apt-config", "dump"])
    return re.findall(r"^Acquire::(?:https?::Proxy|Check-Date|Check-Valid-Until) .*$", dump, re.MULTILINE)


def _write_overlay(recipe: Recipe, overlay: Path) -> None:
    """Pack the template files, owned by root, for mmdebstrap to unpack before the kernel comes."""
    words = {
        "@LABEL@": recipe.label,
        "@KERNEL_ARGUMENTS@": " ".join(
            (*_KERNEL_ARGUMENTS[recipe.kernel], *_CONSOLE, *recipe.kernel_arguments)
        ),
    }
    with tarfile.open(overlay, "w") as tar:
        for tree in ("common", "cloud-init" if recipe.cloud_init else "small", recipe.kernel):
            top = FILES / tree
            for file in sorted(path for path in top.rglob("*") if path.is_file()):
                text = file.read_text()
                for word, value in words.items():
                    text = text.replace(word, value)
                content = text.encode()
                entry = tarfile.TarInfo(str(file.relative_to(top)))
                entry.size = len(content)
                entry.mode = 0o755 if os.access(file, os.X_OK) else 0o644
                tar.addfile(entry, io.BytesIO(content))


def _is_root() -> bool:
    return os.geteuid() == 0


def _as_root(work: Path) -> tuple[str, ...]:
    if _is_root():
        return ()
    owners = work / "owners"
    owners.touch()
    return ("fakeroot", "-i", str(owners), "-s", str(owners), "--")
