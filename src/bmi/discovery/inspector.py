"""Builds the inspection system: a kernel and an initramfs, all of which stays in a machine's memory.

Debian's packages are unpacked, not installed: of them the initramfs gets a busybox, a perl that listens to
switches, ipmitool where real servers boot, and the drivers of network cards, disks and controllers. No rights are
needed: archives are read, and one is written.
"""

import io
import os
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from backports import zstd

from bmi.errors import SettingsInvalid
from bmi.images.debian.recipe import Kernel, Recipe
from bmi.images.debian.rootfs import unpack_packages
from bmi.run import run

KERNEL = "vmlinuz"
INITRAMFS = "initrd.img"

_FILES = Path(__file__).parent / "files"
_TIMEOUT = 300.0  # seconds
_LEVEL = 15  # of zstd: half a minute's work at the most, 3 % more than the best
_PACKAGES = ("busybox-static", "perl-base")
_PROGRAMS = {Kernel.CLOUD: ("usr/bin/perl",), Kernel.GENERIC: ("usr/bin/perl", "usr/bin/ipmitool")}
_FOR_KERNEL = {
    Kernel.CLOUD: ("linux-image-cloud-amd64",),
    Kernel.GENERIC: ("linux-image-amd64", "ipmitool"),
}
_DRIVERS = tuple(
    f"kernel/drivers/{name}"
    for name in (
        "ata/", "block/virtio_blk", "char/ipmi/", "hv/", "message/fusion/", "net/ethernet/", "net/hyperv/",
        "net/mdio/", "net/phy/", "net/virtio_net", "net/vmxnet3/", "net/xen-netfront", "nvme/host/", "scsi/",
        "virtio/", "xen/",
    )
)  # fmt: skip
"""What may be in a server, and has to be driven before it can be told of; with what it depends on."""
_LIBRARIES = ("lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu")
_LOADER = "lib64/ld-linux-x86-64.so.2"

Progress = Callable[[str, float], None]


def build(folder: Path, *, kernel: Kernel, progress: Progress, helper: Path | None = None) -> None:
    """Make the inspection system anew, and put it in the old one's place.

    It may be killed at any instruction and called again: until the new one is whole the old one stays.

    Args:
        folder: Where it is to be; becomes a link to a folder beside it.
        kernel: Which Debian kernel, and with it which drivers.
        progress: Told what is going on, and the fraction of the work that is done (0 to 1).
        helper: Socket of the helper, for a process that is not root and can gain no rights.

    Raises:
        CommandFailed: A tool is not installed, or a package cannot be had.
        CommandTimedOut: The packages did not come in time.
        SettingsInvalid: There is something else at that place.
    """
    parent = folder.parent
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(folder)
    work = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".work", dir=parent))
    try:
        work.chmod(0o755)  # apt drops its privileges and still has to read here
        packed = work / "packages.tar"
        recipe = Recipe(kernel=kernel)
        unpack_packages(recipe, (*_PACKAGES, *_FOR_KERNEL[kernel]), packed, work, progress, helper)
        progress("choosing drivers", 0.7)
        root = work / "root"
        _extract(packed, root)
        packed.unlink()
        made = work / "made"
        made.mkdir(mode=0o755)
        (kernel_file,) = (root / "boot").glob("vmlinuz-*")
        shutil.copyfile(kernel_file, made / KERNEL)
        version = kernel_file.name.removeprefix("vmlinuz-")
        progress("packing the initramfs", 0.8)
        content = _archive(_content(root, version, kernel))
        _write(made / INITRAMFS, zstd.compress(content, level=_LEVEL))
        _put_in_place(made, folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress("done", 1.0)


def _put_in_place(made: Path, folder: Path) -> None:
    home = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    home.chmod(0o755)
    for file in made.iterdir():
        file.rename(home / file.name)
    before = folder.readlink() if folder.is_symlink() else None
    link = home.with_name(f"{home.name}.link")
    link.symlink_to(home.name)
    link.replace(folder)
    if before is not None:
        shutil.rmtree(folder.parent / before, ignore_errors=True)


def _sweep(folder: Path) -> None:
    """Remove what killed builds left; refuse to replace what no build made.

    Raises:
        SettingsInvalid: There is something else at that place.
    """
    if folder.exists() and not folder.is_symlink():
        raise SettingsInvalid(
            f"{folder} is there, and was not made by this command",
            next_step="move it elsewhere, or name another",
        )
    current = folder.readlink().name if folder.is_symlink() else None
    for left in folder.parent.glob(f".{folder.name}[.-]*"):
        if left.name == current:
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


def _extract(packed: Path, root: Path) -> None:
    """Unpack what is needed of the packages, and nothing outside of the folder."""
    wanted = ("boot/vmlinuz-", "lib/modules/", "bin/busybox", "usr/bin/perl", "usr/bin/ipmitool", "lib64/")
    with tarfile.open(packed) as tar:
        for member in tar:
            name = member.name.removeprefix("./")
            library = name.startswith(_LIBRARIES) and ".so" in name and "/perl" not in name
            if not (name.startswith(wanted) or library) or ".." in Path(name).parts:
                continue
            target = root / name
            if member.issym():
                target.parent.mkdir(parents=True, exist_ok=True)
                target.symlink_to(member.linkname)
            elif not member.isdir() and (content := tar.extractfile(member)):
                target.parent.mkdir(parents=True, exist_ok=True)
                with content, target.open("wb") as out:
                    shutil.copyfileobj(content, out)


_Entry = tuple[str, int, bytes]
"""A path, the mode of the file, and its content."""


def _content(root: Path, version: str, kernel: Kernel) -> Iterator[_Entry]:
    """Go through all files of the initramfs."""
    for folder in ("bin", "dev", "lib", "lib/bmi", "lib64", "usr", "usr/bin", "root"):
        yield folder, 0o040755, b""
    yield "bin/busybox", 0o100755, (root / "bin/busybox").read_bytes()
    for file in sorted(path for path in _FILES.rglob("*") if path.is_file()):
        content = file.read_bytes()
        yield str(file.relative_to(_FILES)), 0o100755 if content.startswith(b"#!") else 0o100644, content
    for program in _PROGRAMS[kernel]:
        target = "usr/bin/perl" if program.endswith("perl") else f"bin/{Path(program).name}"
        yield target, 0o100755, (root / program).read_bytes()
    yield _LOADER, 0o100755, _resolved(root, _LOADER).read_bytes()
    for name, file in sorted(_libraries(root, _PROGRAMS[kernel]).items()):
        yield f"lib/{name}", 0o100755, file.read_bytes()
    yield from _modules(root, version)


def _resolved(root: Path, name: str) -> Path:
    """Return a file of the unpacked packages; links in them mean their own root."""
    path = root / name
    while path.is_symlink():
        target = path.readlink()
        path = root / target.relative_to("/") if target.is_absolute() else path.parent / target
    if not path.exists():  # the link's folder may be merged with /usr on a system, and is not here
        path = next(iter(root.glob(f"**/{path.name}")))
    return path


def _libraries(root: Path, programs: tuple[str, ...]) -> dict[str, Path]:
    """Return the libraries that programs load, as their own dynamic loader finds them."""
    loader = _resolved(root, _LOADER)
    loader.chmod(0o755)
    path = ":".join(str(root / folder) for folder in _LIBRARIES)
    found = {}
    for program in programs:
        words: list[str | Path] = [
            loader,
            "--inhibit-cache",
            "--library-path",
            path,
            "--list",
            root / program,
        ]
        for line in run(words).splitlines():
            name, arrow, rest = line.strip().partition(" => ")
            if arrow:
                found[Path(name).name] = Path(rest.rsplit(" (", 1)[0])
    return found


def _modules(root: Path, version: str) -> Iterator[_Entry]:
    """Go through the drivers, what they depend on, and the lists by which they are found."""
    top = root / "lib/modules" / version
    run(["depmod", "-b", root, version], timeout=_TIMEOUT)
    needs = {
        name: rest.split()
        for name, _, rest in (line.partition(":") for line in (top / "modules.dep").read_text().splitlines())
    }
    kept: set[str] = set()
    for name, others in needs.items():
        if name.startswith(_DRIVERS):
            kept |= {name, *others}
    for file in [path for path in top.rglob("*.ko") if str(path.relative_to(top)) not in kept]:
        file.unlink()
    run(["depmod", "-b", root, version], timeout=_TIMEOUT)  # the lists name what is left only
    folders = {parent for name in kept for parent in Path(name).parents} - {Path()}
    base = f"lib/modules/{version}"
    for folder in ("lib/modules", base, *(f"{base}/{folder}" for folder in sorted(folders))):
        yield folder, 0o040755, b""
    for name in sorted(kept):
        yield f"{base}/{name}", 0o100644, (top / name).read_bytes()
    for name in ("modules.dep", "modules.alias", "modules.symbols", "modules.softdep", "modules.builtin"):
        yield f"{base}/{name}", 0o100644, (top / name).read_bytes()


def _archive(entries: Iterator[_Entry]) -> bytes:
    """Return an archive as the kernel unpacks it (Documentation/driver-api/early-userspace/buffer-format.rst).

    All belongs to root, and all dates are 0: the same files make the same archive.
    """
    out = io.BytesIO()
    numbered = enumerate([*entries, ("dev/console", 0o020600, b""), ("TRAILER!!!", 0, b"")], start=1)
    for number, (name, mode, content) in numbered:
        major, minor = (5, 1) if name == "dev/console" else (0, 0)
        path = name.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(path), 0)
        out.write(b"070701" + b"".join(b"%08X" % field for field in fields) + path)
        out.write(bytes(-out.tell() % 4) + content)
        out.write(bytes(-out.tell() % 4))
    return out.getvalue()


def _write(file: Path, content: bytes) -> None:
    with file.open("wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())
