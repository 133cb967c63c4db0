"""Runs other programs: argument lists only, a time limit, and their error output in the error."""

import io
import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from bmi.errors import CommandFailed, CommandTimedOut

TIMEOUT = 30.0  # seconds; enough for anything that BMI waits for on a request's path

_STDERR_KEPT = 2000  # characters of a program's error output that are worth a reader's time
_PULSE = 0.25  # seconds; how soon a program is ended that nobody wants any more
_LINES_KEPT = 15  # lines of a long-running program's output that go into the error


def run(
    argv: Sequence[str | Path],
    *,
    timeout: float = TIMEOUT,
    namespace: str | None = None,
    input: bytes | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a program to its end and return what it printed.

    Args:
        argv: The program and its arguments. Never put a secret here: every user of the host can read it.
        timeout: Seconds until the program is killed.
        namespace: Name of the network namespace to run in; the caller's own if None.
        input: What the program reads from its standard input; nothing if None.
        env: Variables set on top of the caller's environment.
        cwd: Folder to run in; the caller's own if None.

    Raises:
        CommandTimedOut: It did not end in time and was killed.
        CommandFailed: It is not installed, or ended with a status other than 0.
    """
    words = [*inside(namespace), *map(str, argv)]
    try:
        done = subprocess.run(
            words,
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            timeout=timeout,
            check=False,
            env=None if env is None else {**os.environ, **env},
            cwd=cwd,
        )
    except FileNotFoundError as error:
        raise CommandFailed(
            f"{words[0]} is not installed", next_step=f"install the Debian package that has {words[0]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise CommandTimedOut(
            f"{' '.join(words)} did not end within {timeout:g} s and was killed",
            next_step="look at the host's load and try again",
        ) from error
    if done.returncode != 0:
        stderr = done.stderr.decode(errors="replace").strip()[-_STDERR_KEPT:]
        raise CommandFailed(
            f"{' '.join(words)} ended with status {done.returncode}: {stderr or 'no error output'}",
            next_step="mend what the program complains about and try again",
        )
    return done.stdout.decode(errors="replace")


def stream(
    argv: Sequence[str | Path],
    *,
    line: Callable[[str], None],
    timeout: float,
    env: Mapping[str, str] | None = None,
    pulse: Callable[[], None] | None = None,
) -> None:
    """Run a program to its end and hand on each line it prints, on either output, as it comes.

    What a carriage return ends, as in a progress bar, is a line too.

    Args:
        argv: The program and its arguments. Never put a secret here: every user of the host can read it.
        line: Called with each line, without its end. What it raises ends the program.
        timeout: Seconds until the program, and what it started, is killed.
        env: Variables set on top of the caller's environment.
        pulse: Called several times a second, also while nothing is printed. What it raises ends the program.

    Raises:
        CommandTimedOut: It did not end in time and was killed.
        CommandFailed: It is not installed, or ended with a status other than 0.
    """
    words = list(map(str, argv))
    deadline = time.monotonic() + timeout
    last: deque[str] = deque(maxlen=_LINES_KEPT)
    try:
        child = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=None if env is None else {**os.environ, **env},
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandFailed(
            f"{words[0]} is not installed", next_step=f"install the Debian package that has {words[0]}"
        ) from error
    try:
        with child.stdout or io.BytesIO() as output:
            for text in _lines(output.fileno(), deadline, pulse or _nothing):
                last.append(text)
                line(text)
        status = child.wait(max(0.0, deadline - time.monotonic()))
    except (TimeoutError, subprocess.TimeoutExpired) as error:
        raise CommandTimedOut(
            f"{' '.join(words)} did not end within {timeout:g} s and was killed; its last words: {last}",
            next_step="look at the host's load and try again",
        ) from error
    finally:
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if status != 0:
        raise CommandFailed(
            f"{' '.join(words)} ended with status {status}: {chr(10).join(last) or 'no output'}",
            next_step="mend what the program complains about and try again",
        )


def _nothing() -> None:
    pass


def _lines(fd: int, deadline: float, pulse: Callable[[], None]) -> Iterator[str]:
    """Read lines until the other end is closed.

    Raises:
        TimeoutError: It was not closed by the deadline.
    """
    rest = b""
    while True:
        left = deadline - time.monotonic()
        ready, _, _ = select.select([fd], [], [], min(_PULSE, max(0.0, left)))
        pulse()
        if not ready:
            if left <= 0:
                raise TimeoutError
            continue
        chunk = os.read(fd, 65536)
        *complete, rest = (rest + chunk).replace(b"\r", b"\n").split(b"\n")
        yield from (each.decode(errors="replace") for each in complete)
        if not chunk:
            if rest:
                yield rest.decode(errors="replace")
            return


def inside(namespace: str | None) -> list[str]:
    """Return the words to put before a command so that it runs inside a network namespace.

    Not `ip netns exec`: that gives the command a mount namespace of its own too, where every file system that
    is mounted now stays in use as long as the command runs.
    """
    return [] if namespace is None else ["nsenter", f"--net=/run/netns/{namespace}"]
