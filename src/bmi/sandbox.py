"""Runs programs that read what strangers made, where they can do no harm.

Such a program sees Debian's /usr, the files that it is given, and nothing else: no network, no other process, no
configuration, no environment. It has no privileges and, where the service runs as root, another user's id. What it
may take of time, memory and space is limited. It ends with the thread that started it.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bmi.run import stream

FOLDER = "/image"
"""Where the files lie that the program is given."""

NOBODY = 65534
"""User and group of Debian that own nothing."""

_ALONE = (
    "bwrap",
    "--unshare-pid",
    "--unshare-ipc",
    "--unshare-uts",
    "--unshare-net",
    "--unshare-cgroup-try",
    "--die-with-parent",
    "--clearenv",
    *("--setenv", "PATH", "/usr/bin"),
    *("--setenv", "LC_ALL", "C.UTF-8"),
    *("--setenv", "MALLOC_ARENA_MAX", "2"),  # else each thread reserves 64 MiB of the address space
    *("--ro-bind", "/usr", "/usr"),
    *("--symlink", "usr/lib", "/lib"),
    *("--symlink", "usr/lib64", "/lib64"),
    *("--symlink", "usr/bin", "/bin"),
    *("--proc", "/proc"),
    *("--dev", "/dev"),
    *("--dir", FOLDER),
    *("--chdir", "/"),
)
# bwrap keeps what setpriv needs to become nobody, who then has nothing and gets nothing.
_BECOME_NOBODY = ("--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID")
_AS_NOBODY = (
    "setpriv",
    f"--reuid={NOBODY}",
    f"--regid={NOBODY}",
    "--clear-groups",
    "--inh-caps=-all",
    "--no-new-privs",
    "--",
)


@dataclass(frozen=True)
class Limits:
    """What a program may take."""

    seconds: float
    """Of time, and of one processor's."""
    written: int
    """Bytes of the largest file."""
    memory: int = 2 << 30
    """Bytes of address space."""


def confined(
    argv: Sequence[str],
    *,
    limits: Limits,
    line: Callable[[str], None],
    pulse: Callable[[], None],
    read: Mapping[str, Path],
    write: Mapping[str, Path] | None = None,
) -> None:
    """Run a program of Debian's to its end.

    Args:
        argv: The program and its arguments.
        limits: What it may take.
        line: Called with each line that it prints. What it raises ends the program.
        pulse: Called several times a second. What it raises ends the program.
        read: Files that it may read, by their names in `FOLDER`. Others must be able to read them.
        write: Files that it may write; they exist, and become nobody's where the service is root.

    Raises:
        CommandTimedOut: It did not end in time and was killed.
        CommandFailed: It could not be started, or ended with a status other than 0.
    """
    words = [*_ALONE]
    for name, path in read.items():
        words += ["--ro-bind", str(path), f"{FOLDER}/{name}"]
    for name, path in (write or {}).items():
        words += ["--bind", str(path), f"{FOLDER}/{name}"]
    if os.geteuid() == 0:
        for path in (write or {}).values():
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
        words += [*_BECOME_NOBODY, "--", *_AS_NOBODY]
    else:
        words += ["--unshare-user", "--cap-drop", "ALL", "--"]
    stream([*words, *_limited(limits), *argv], line=line, pulse=pulse, timeout=limits.seconds)


def _limited(limits: Limits) -> list[str]:
    return [
        "prlimit",
        f"--cpu={int(limits.seconds) + 1}",
        f"--as={limits.memory}",
        f"--fsize={limits.written}",
        "--core=0",
        "--",
    ]
