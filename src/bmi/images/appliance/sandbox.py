"""The sandbox around the appliance: no rights, no network, no file of the host but programs, limits on everything.

A hostile image that breaks out of the virtual machine is nobody, in namespaces of its own, beside a socket that
leads to the bytes of its own disk.
"""

import os
from pathlib import Path

_NOBODY = "65534"
_SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/sbin")
_SPARE = (
    3 << 30
)  # bytes of address space beside the virtual machine's memory: QEMU's translated code, libraries
_SCRATCH = 1 << 30  # bytes for temporary files, in memory
_LARGEST_FILE = 5 << 30  # bytes; the appliance's own root has 4 GiB, nearly all of it holes
_PROGRAM = (
    "import sys; sys.path.insert(0, '/program'); from bmi.images.appliance.child.main import main; main()"
)


def words(*, appliance: Path, socket: Path, memory: int, kvm: bool, files: Path | None) -> list[str]:
    """Return the command that starts the program in the sandbox.

    Args:
        appliance: The appliance's folder.
        socket: Where its disk is served.
        memory: MiB of the virtual machine.
        kvm: Whether it may use the processor's virtualization.
        files: A folder of files that it may read, at /files.
    """
    source = Path(__file__).parent  # nothing else of BMI
    limits = ["prlimit", f"--as={(memory << 20) + _SPARE}", f"--fsize={_LARGEST_FILE}", "--core=0"]
    no_rights = ["setpriv", "--pdeathsig", "KILL", "--no-new-privs"]
    if os.geteuid() == 0:
        no_rights += [f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    bubble = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]
    bubble += _folders()
    bubble += ["--proc", "/proc", "--dev", "/dev", "--size", str(_SCRATCH), "--tmpfs", "/tmp"]  # noqa: S108
    bubble += ["--symlink", "../tmp", "/var/tmp"]  # noqa: S108 - QEMU's own idea of where scratch files go
    bubble += [
        "--ro-bind",
        str(source),
        "/program/bmi/images/appliance",
        "--ro-bind",
        str(appliance),
        "/appliance",
    ]
    bubble += ["--bind", str(socket), "/disk/socket"]
    bubble += ["--ro-bind", str(files), "/files"] if files else []
    bubble += ["--dev-bind", "/dev/kvm", "/dev/kvm"] if kvm else []
    for name, value in {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/tmp", "TMPDIR": "/tmp"}.items():  # noqa: S108
        bubble += ["--setenv", name, value]
    return [*limits, *no_rights, "--", *bubble, "--", "/usr/bin/python3", "-I", "-B", "-c", _PROGRAM]


def _folders() -> list[str]:
    """Bind the host's programs; where /lib is a link into /usr it stays one."""
    found: list[str] = []
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            found += ["--symlink", str(path.readlink()), name]
        elif path.is_dir():
            found += ["--ro-bind", name, name]
    return found
