"""The root file system: Debian packages, and the files that make it boot over iSCSI and become a node."""

import io
import os
import re
import shlex
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bmi.helper.new_ids import stand_in
from bmi.images.debian.recipe import Kernel, Recipe
from bmi.run import run, stream

FILES = Path(__file__).parent / "files"

_TIMEOUT = 1200.0  # seconds for all packages; a slow mirror takes minutes
_UNPACK_TIMEOUT = 300.0  # seconds

# fmt: off
_PACKAGES = (
    "systemd-sysv", "udev", "kmod", "initramfs-tools", "open-iscsi", "openssh-server", "usr-is-merged",
    "iproute2", "iputils-ping", "busybox", "procps", "wget", "netcat-openbsd",
)
# fmt: on
_CLOUD_INIT = ("cloud-init", "sudo", "systemd-resolved")
_FOR_KERNEL = {
    Kernel.CLOUD: ("linux-image-cloud-amd64",),
    Kernel.GENERIC: ("linux-image-amd64", "systemd-timesyncd"),
}

_NOT_UNPACKED = (
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/locale/*",
    "path-include=/usr/share/locale/locale.alias",
)

_KERNEL_ARGUMENTS = {
    # A virtual machine has one NIC, whatever the name. Auditing costs each system call; the kernel's tests of
    # its own cryptography cost each start.
    Kernel.CLOUD: ("ro", "audit=0", "net.ifnames=0", "cryptomgr.notests"),
    Kernel.GENERIC: ("ro", "ip=dhcp"),
}
_CONSOLE = ("console=tty0", "console=ttyS0,115200", "panic=10", "quiet")

# What mmdebstrap says on the way, what it means, and how much of the time has gone by then (a real build).
_STAGES = (
    ("running apt-get update", "reading package lists", 0.02),
    ("downloading packages", "downloading packages", 0.05),
    ("extracting archives", "unpacking the base system", 0.10),
    ("installing essential", "installing the base system", 0.25),
    ("installing remaining", "installing packages", 0.40),
    ("cleaning package", "cleaning up", 0.85),
    ("creating tarball", "packing the root file system", 0.86),
)
_UNPACKING = 0.90

Progress = Callable[[str, float], None]


def make(
    recipe: Recipe, work: Path, progress: Progress, helper: Path | None = None
) -> tuple[Path, tuple[str, ...]]:
    """Make the root file system as a folder.

    Args:
        recipe: What goes in.
        work: Folder to work in.
        progress: Told what is going on, and the fraction of the work that is done.
        helper: Socket of the helper, for a process that is not root and can gain no rights.

    Returns:
        The folder, and the words to put before a command so that it sees the files' true owners.

    Raises:
        CommandFailed: A tool is not installed, or a package cannot be had.
        CommandTimedOut: The packages did not come in time.
    """
    overlay, packed, folder = work / "overlay.tar", work / "root.tar", work / "root"
    write_overlay(recipe, overlay)
    _bootstrap(recipe, overlay, packed, work, progress, helper)
    progress("unpacking the root file system", _UNPACKING)
    folder.mkdir()
    as_root = _as_root(work)
    # Without the device nodes: the kernel mounts its own over them, and not everybody may make some.
    # fakeroot loses a file's type with its first extended attribute; without them ping loses a capability that it
    # can do without.
    attributes = ["--xattrs", "--xattrs-include=*"] if _is_root() else []
    run(
        [*as_root, "tar", "-C", folder, "--exclude=./dev/*", *attributes, "-xf", packed],
        timeout=_UNPACK_TIMEOUT,
    )
    packed.unlink()
    return folder, as_root


def write_overlay(recipe: Recipe, overlay: Path) -> None:
    """Pack the template files, owned by root, for mmdebstrap to unpack before the kernel comes."""
    arguments = (*_KERNEL_ARGUMENTS[recipe.kernel], *_CONSOLE, *recipe.kernel_arguments)
    values = {"@LABEL@": recipe.label, "@KERNEL_ARGUMENTS@": " ".join(arguments)}
    with tarfile.open(overlay, "w") as tar:
        trees = ["common", "cloud-init" if recipe.cloud_init else "small", recipe.kernel]
        for tree in [*trees, *(["cleaner"] if recipe.cleaner else [])]:
            top = FILES / tree
            for file in sorted(path for path in top.rglob("*") if path.is_file()):
                text = file.read_text()
                for placeholder, value in values.items():
                    text = text.replace(placeholder, value)
                content = text.encode()
                entry = tarfile.TarInfo(str(file.relative_to(top)))
                entry.size = len(content)
                entry.mode = 0o755 if content.startswith(b"#!") else 0o644
                tar.addfile(entry, io.BytesIO(content))


def _bootstrap(
    recipe: Recipe, overlay: Path, packed: Path, work: Path, progress: Progress, helper: Path | None
) -> None:
    customize = shlex.join(["sh", str(FILES / "customize"), recipe.kernel])
    # fmt: off
    words: list[str | Path] = [
        "--variant=minbase", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
        f"--include={','.join(_packages(recipe))}",
        *(f"--dpkgopt={option}" for option in _NOT_UNPACKED),
        f"--essential-hook=tar-in {shlex.quote(str(overlay))} /",
        f'--customize-hook={customize} "$1"',
    ]
    # fmt: on
    _mmdebstrap(recipe, words, packed, work, progress, helper)


def unpack_packages(
    recipe: Recipe,
    packages: Sequence[str],
    packed: Path,
    work: Path,
    progress: Progress,
    helper: Path | None = None,
) -> None:
    """Fetch packages, and those that they depend on, and unpack them into an archive; nothing of them is run.

    Args:
        recipe: Release and mirror.
        packages: Their names.
        packed: The archive to make.
        work: Folder to work in.
        progress: Told what is going on, and the fraction of the work that is done.
        helper: Socket of the helper, for a process that is not root and can gain no rights.

    Raises:
        CommandFailed: A tool is not installed, or a package cannot be had.
        CommandTimedOut: The packages did not come in time.
    """
    words = ["--variant=extract", f"--include={','.join(packages)}"]
    _mmdebstrap(recipe, words, packed, work, progress, helper)


def _mmdebstrap(
    recipe: Recipe,
    how: Sequence[str | Path],
    packed: Path,
    work: Path,
    progress: Progress,
    helper: Path | None,
) -> None:
    # What a killed mmdebstrap leaves goes with the work folder.
    temporary = work / "tmp"
    temporary.mkdir(mode=0o755)
    words: list[str | Path] = [
        *_contained(), "mmdebstrap", f"--mode={'root' if _is_root() else 'unshare'}",
        "--format=tar", "--architectures=amd64", *how,
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--aptopt={option}" for option in _host_apt_options()),
        recipe.suite, packed, *_sources(recipe),
    ]  # fmt: skip

    def tell(line: str) -> None:
        for said, meaning, fraction in _STAGES:
            if line.startswith(f"I: {said}"):
                progress(meaning, fraction)

    # It gives files to many users, which takes ids that only root can give.
    gained = stand_in(work / "ids", helper) if helper and not _is_root() else {}
    stream(words, line=tell, timeout=_TIMEOUT, env={"TMPDIR": str(temporary), **gained})


def _contained() -> list[str]:
    """Return the words to put before mmdebstrap so that nothing of it outlives this process.

    As root it mounts /proc, /sys and /dev below its folder, for all of the host to see. In namespaces of its own
    the mounts go with its processes, and those go with this one. What the host unmounts meanwhile goes there too.
    """
    if _is_root():
        namespaces = ["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child"]
        return ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, "--"]
    return ["setpriv", "--pdeathsig", "TERM"]  # it makes such namespaces by itself


def _packages(recipe: Recipe) -> list[str]:
    set_up = _CLOUD_INIT if recipe.cloud_init else ()
    return sorted({*_PACKAGES, *_FOR_KERNEL[recipe.kernel], *set_up, *recipe.packages})


def _sources(recipe: Recipe) -> list[str]:
    """Return the apt sources to install from; none leaves them to mmdebstrap."""
    if recipe.mirror is not None:
        return [recipe.mirror]
    fields = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(CODENAME)"
    found = run(["apt-get", "indextargets", "--format", fields, "Created-By: Packages", "Origin: Debian"])
    sources = set()
    for line in found.splitlines():
        uri, release, component, codename = line.split()
        if codename.split("-")[0] == recipe.suite:
            sources.add(f"deb {uri} {release} {component}")
    return sorted(sources)


def _host_apt_options() -> list[str]:
    """Return how this host's apt reaches its mirror: proxies, and what it makes of the date."""
    dump = run(["apt-config", "dump"])
    return re.findall(r"^Acquire::(?:https?::Proxy|Check-Date|Check-Valid-Until) .*$", dump, re.MULTILINE)


def _is_root() -> bool:
    return os.geteuid() == 0


def _as_root(work: Path) -> tuple[str, ...]:
    if _is_root():
        return ()
    owners = work / "owners"
    owners.touch()
    return ("fakeroot", "-i", str(owners), "-s", str(owners), "--")
