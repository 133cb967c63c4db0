"""Long-running programs that outlive the process that started them.

A running node must not lose its disk because BMI restarts. So tgtd and dnsmasq are started detached, and a
record on disk says which process it was: the kernel gives a process id out again, but not with the same start
time.
"""

import contextlib
import errno
import json
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bmi.errors import CommandFailed, DeadlineExceeded
from bmi.run import inside

_TERM_DEADLINE = 5.0  # seconds a program gets to end by itself before it is killed
_KILL_DEADLINE = 5.0  # seconds until a killed program must be gone


@dataclass(frozen=True)
class Process:
    """One particular run of a program."""

    pid: int
    started: str
    """When it began, in a form that no change of the clock touches: boot id, and ticks since boot."""

    @classmethod
    def of(cls, pid: int) -> "Process | None":
        """Return the process that has an id now, if there is one."""
        started = _started(pid)
        return None if started is None else cls(pid, started)

    def alive(self) -> bool:
        """Say whether it still runs, with any of its threads."""
        return not self._gone_within(0)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        with self._handle() as handle:
            if handle is not None:
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(handle, number)

    def stop(self, *, kill: bool = False) -> None:
        """End it, by force where asking does not help, and wait until it is gone.

        Args:
            kill: Do not ask first.

        Raises:
            DeadlineExceeded: It is still there after SIGKILL: it hangs in the kernel.
        """
        if not kill:
            self.signal(signal.SIGTERM)
            if self._gone_within(_TERM_DEADLINE):
                return
        self.signal(signal.SIGKILL)
        if not self._gone_within(_KILL_DEADLINE):
            raise DeadlineExceeded(
                f"process {self.pid} did not end within {_KILL_DEADLINE:g} s of SIGKILL",
                next_step="it hangs in the kernel: look at its state in /proc and at dmesg",
            )

    def on_exit(self, call: Callable[[], None]) -> None:
        """Call something, from a thread of its own, once the process has ended; at once if it has already."""

        def watch() -> None:
            self._gone_within(None)
            call()

        threading.Thread(target=watch, name=f"watch-{self.pid}", daemon=True).start()

    def _gone_within(self, seconds: float | None) -> bool:
        """Wait until it has ended, for ever if None, and say whether it has."""
        with self._handle() as handle:
            if handle is not None:
                poll = select.poll()
                poll.register(
                    handle, select.POLLIN
                )  # readable when the last thread has ended (pidfd_open(2))
                if not poll.poll(None if seconds is None else seconds * 1000):
                    return False
        _reap(self.pid)
        return True

    @contextlib.contextmanager
    def _handle(self) -> Iterator[int | None]:
        """Give a descriptor that stands for this very process; None if it has ended and was collected."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError as error:
            # The number may be that of another process's thread by now, which has none: pidfd_open(2).
            if error.errno not in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
                raise
            yield None
            return
        try:
            yield handle if _started(self.pid) == self.started else None
        finally:
            os.close(handle)


def start(
    argv: Sequence[str | Path],
    *,
    record: Path,
    log: Path,
    namespace: str | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
) -> Process:
    """Start a program that goes on when this process ends.

    Args:
        argv: The program, which must stay in the foreground, and its arguments.
        record: File that remembers the process; `recorded` reads it.
        log: File that its output is added to.
        namespace: Name of the network namespace to run in; the caller's own if None.
        env: Variables set on top of the caller's environment.
        pass_fds: Descriptors that it gets, with the numbers that they have here.

    Raises:
        CommandFailed: It is not installed.
    """
    words = [*inside(namespace), *map(str, argv)]
    record.parent.mkdir(parents=True, exist_ok=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        try:
            child = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                env=None if env is None else {**os.environ, **env},
                pass_fds=pass_fds,
            )
        except FileNotFoundError as error:
            raise CommandFailed(
                f"{words[0]} is not installed", next_step=f"install the Debian package that has {words[0]}"
            ) from error
    # The handle would warn when it is collected before the program ends; on_exit and stop reap by pid.
    child.returncode = 0
    process = Process.of(child.pid)
    if process is None:
        raise AssertionError("a child that was not collected has an entry in /proc")
    partial = record.with_suffix(".part")
    partial.write_text(json.dumps(asdict(process)))
    partial.rename(record)
    return process


def recorded(record: Path) -> Process | None:
    """Return the process that a record names, if it still runs."""
    try:
        process = Process(**json.loads(record.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None
    return process if process.alive() else None


def _started(pid: int) -> str | None:
    """Say when a process began: field 22 of its stat file (proc(5)); the name before it may hold anything."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()}:{fields[19]}"
    except (FileNotFoundError, ProcessLookupError):
        return None


def _reap(pid: int) -> None:
    """Collect an ended child, so that it does not stay behind as a zombie; not ours is fine."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def recorded_below(folder: Path) -> list[Process]:
    """Return the processes that records anywhere below a folder name, those that still run."""
    found = (recorded(path) for path in sorted(folder.rglob("*")) if _may_be_record(path))
    return [process for process in found if process]


_RECORD_MAX = 200  # bytes; a record has two numbers


def _may_be_record(path: Path) -> bool:
    return path.is_file() and not path.is_symlink() and path.stat().st_size <= _RECORD_MAX
