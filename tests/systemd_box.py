"""A systemd that runs as process 1 of a box: namespaces of its own over this host's files.

What is written inside is in memory and goes with the box. The box has a loopback interface and no other, unless
told otherwise. Its end is that of its process 1; it ends too when the process of the tests is killed.
"""

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from bmi.errors import DeadlineExceeded
from bmi.wait import wait_until

START = 60.0  # seconds; one or two on an idle machine
END = 30.0  # seconds
COMMAND = 60.0  # seconds

_STARTED_BY_ITSELF = {
    "dbus.service",
    "dbus.socket",
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "systemd-tmpfiles-setup.service",
}
"""What of a host's start the box does; the rest is about hardware, kernel parameters and log-ins of this host."""

_TARGETS = ("sysinit", "basic", "sockets", "timers", "multi-user", "local-fs")
_UNITS = Path("/lib/systemd/system")

# A cgroup of its own comes first: systemd takes the one that it is in for the root of all.
_MAKE = """
set -e
box=$1 group=$2
mkdir "$box/cgroup" "$box/memory"
mount -t cgroup2 none "$box/cgroup"
mkdir "$box/cgroup/$group"
echo $$ >"$box/cgroup/$group/cgroup.procs"
umount "$box/cgroup"
exec unshare --cgroup bash -c "$3" bash "$box" "${@:4}"
"""

_FILL = """
set -e
box=$1/memory
mount -t tmpfs -o mode=755 none "$box"
mkdir "$box/upper" "$box/work" "$box/root"
mount -t overlay -o "lowerdir=/,upperdir=$box/upper,workdir=$box/work" none "$box/root"
root=$box/root
mount -t proc -o nosuid,nodev,noexec none "$root/proc"
mount -t sysfs -o ro,nosuid,nodev,noexec none "$root/sys"
mount -t cgroup2 -o nosuid,nodev,noexec none "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755,nosuid,nodev none "$root/run"
mount -t tmpfs -o mode=1777,nosuid,nodev none "$root/tmp"
mount -t tmpfs -o mode=755,nosuid none "$root/dev"
for device in null zero full random urandom tty; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
if [ -e /dev/net/tun ]; then  # ports of an Open vSwitch without the kernel's part of it
    mkdir "$root/dev/net"
    touch "$root/dev/net/tun"
    mount --bind /dev/net/tun "$root/dev/net/tun"
fi
mkdir "$root/dev/pts" "$root/dev/shm" "$root/dev/mqueue"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 none "$root/dev/pts"
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"
mount -t tmpfs -o mode=1777,nosuid,nodev none "$root/dev/shm"
rm -rf "$root"/etc/systemd/system "$root/etc/fstab"
mkdir -p "$root/etc/systemd/system"
for unit in $2; do ln -s /dev/null "$root/etc/systemd/system/$unit"; done
shift 2
while [ $# -gt 0 ]; do
    mkdir -p "$root$2"
    mount --bind -o ro "$1" "$root$2"
    shift 2
done
cd "$root"
mkdir old
pivot_root . old
umount -l old
rmdir old
mount --make-rshared /  # as systemd does on a host, so that units see what is mounted later
export container=bmi-box
unset INVOCATION_ID LISTEN_FDS NOTIFY_SOCKET
exec /lib/systemd/systemd --unit=basic.target --log-target=auto --show-status=no
"""


class SystemdBox:
    """A box that runs."""

    def __init__(self, pid: int, name: str) -> None:
        self.pid = pid
        """Of its process 1, as the host sees it."""
        self.name = name
        """Of its folder, and of its cgroup."""

    def path(self, inside: str | Path) -> Path:
        """Return a path by which this process reaches a file of the box."""
        return Path(f"/proc/{self.pid}/root", str(inside).lstrip("/"))

    def write(self, inside: str | Path, content: str, *, mode: int = 0o644) -> None:
        """Write a file in the box, and the folders above it."""
        path = self.path(inside)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(mode)

    def read(self, inside: str | Path) -> str:
        """Read a file of the box."""
        return self.path(inside).read_text()

    def try_run(self, *words: str | Path, seconds: float = COMMAND) -> "subprocess.CompletedProcess[str]":
        """Run a command in the box as root, and return how it ended."""
        return subprocess.run(
            ["nsenter", "--all", f"--target={self.pid}", "--wdns=/", "--", *map(str, words)],
            capture_output=True,
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=seconds,
            check=False,
            env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"},
        )

    def run(self, *words: str | Path, seconds: float = COMMAND) -> str:
        """Run a command in the box as root, which has to succeed, and return what it printed."""
        done = self.try_run(*words, seconds=seconds)
        assert done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done.stdout

    def shell(self, lines: str, *, seconds: float = COMMAND) -> str:
        """Run lines of a shell in the box as root, all of which have to succeed."""
        return self.run("bash", "-euc", lines, seconds=seconds)

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", f"--property={name}", "--value", unit).strip()

    def main_pid(self, unit: str) -> int:
        """Return the id of a unit's main process, as the host sees it."""
        inside = self.show(unit, "MainPID")
        for process in psutil.process_iter():
            with suppress(psutil.Error, OSError):
                status = Path(f"/proc/{process.pid}/status").read_text()
                ids = status.partition("NSpid:")[2].partition("\n")[0].split()
                if ids[1:] == [inside] and self._has(process.pid):
                    return process.pid
        raise AssertionError(f"{unit} has no process: {self.journal(unit)}")

    def journal(self, unit: str) -> str:
        """Return what a unit has said so far, and systemd of it."""
        return self.run("journalctl", "--no-pager", "--output=short-precise", f"--unit={unit}")

    def wait_active(self, unit: str, *, seconds: float = START) -> None:
        """Wait until a unit is active; one that fails ends the wait."""

        def active() -> bool:
            state = self.show(unit, "ActiveState")
            assert state != "failed", self.journal(unit)
            return state == "active"

        try:
            wait_until(active, deadline=seconds, what=unit, next_step="see its journal")
        except DeadlineExceeded as error:
            raise AssertionError(f"{error.message}: {self.journal(unit)}") from error

    def _has(self, pid: int) -> bool:
        return os.readlink(f"/proc/{pid}/ns/pid") == os.readlink(f"/proc/{self.pid}/ns/pid")


@contextmanager
def systemd_box(
    *, shown: Sequence[tuple[Path, str]] = (), hosts_network: bool = False
) -> Iterator[SystemdBox]:
    """Run a box; nothing of it is left then.

    Args:
        shown: Folders of this host, and where they are in the box, read-only and whoever may pass above them here.
        hosts_network: Whether it has this host's network instead of its own; then start nothing that changes that.
    """
    folder = Path(tempfile.mkdtemp(prefix="bmi-box-"))
    group = folder.name
    places = [str(word) for pair in shown for word in pair]
    # The words end with this process, and process 1 of the box with them.
    words = ["setpriv", "--pdeathsig", "KILL", "--", "unshare", "--fork", "--kill-child"]
    words += ["--mount", "--propagation", "private", "--pid", "--uts", "--ipc"]
    words += [] if hosts_network else ["--net"]
    words += ["bash", "-c", _MAKE, "bash", str(folder), group, _FILL, " ".join(_masked()), *places]
    with (folder / "console").open("wb") as console:
        outer = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=console, stderr=console)
    try:
        yield _started(outer, folder / "console")
    finally:
        _end(outer)
        _remove_cgroup(group)
        shutil.rmtree(folder)


def _started(outer: "subprocess.Popen[bytes]", console: Path) -> SystemdBox:
    """Wait until systemd has started what it starts by itself."""

    def inner() -> SystemdBox | None:
        assert outer.poll() is None, console.read_text(errors="replace")
        pid = next((child.pid for child in psutil.Process(outer.pid).children()), None)
        return None if pid is None else SystemdBox(pid, console.parent.name)

    def started() -> bool:
        inner()
        if not box.path("run/systemd/private").exists():
            return False
        return box.try_run("systemctl", "is-active", "basic.target").returncode == 0

    try:
        box = wait_until(inner, deadline=START, what="process 1 of the box", next_step="see its console")
        wait_until(started, deadline=START, what="systemd in the box", next_step="see its console")
    except DeadlineExceeded as error:
        raise AssertionError(f"{error.message}: {console.read_text(errors='replace')}") from error
    return box


def _masked() -> list[str]:
    wanted = {path.name for target in _TARGETS for path in (_UNITS / f"{target}.target.wants").glob("*")}
    return sorted(wanted - _STARTED_BY_ITSELF)


def _end(outer: "subprocess.Popen[bytes]") -> None:
    """Kill process 1 of the box; the kernel kills all others then."""
    with suppress(psutil.NoSuchProcess):
        for child in psutil.Process(outer.pid).children():
            with suppress(ProcessLookupError):
                os.kill(child.pid, signal.SIGKILL)
    try:
        outer.wait(END)
    except subprocess.TimeoutExpired:
        outer.kill()
        outer.wait(END)


def _remove_cgroup(group: str) -> None:
    """Remove the box's cgroup, which is empty, wherever this host has its cgroups."""
    lines = (
        "set -e; mount -t cgroup2 none /mnt; cd /mnt; [ ! -d $0 ] || find $0 -depth -type d -exec rmdir {} +"
    )
    # A process that has just died may hold it for a moment.
    wait_until(
        lambda: (
            subprocess.run(
                ["unshare", "--mount", "--propagation", "private", "sh", "-c", lines, group],
                capture_output=True,
                timeout=END,
                check=False,
            ).returncode
            == 0
        ),
        deadline=END,
        what=f"the cgroup {group} to be empty",
        next_step="see which processes are in it",
    )
