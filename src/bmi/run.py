"""Runs other programs: argument lists only, a time limit, and their error output in the error."""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bmi.errors import CommandFailed, CommandTimedOut

TIMEOUT = 30.0  # seconds; enough for anything that BMI waits for on a request's path

_STDERR_KEPT = 2000  # characters of a program's error output that are worth a reader's time


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


def inside(namespace: str | None) -> list[str]:
    """Return the words to put before a command so that it runs inside a network namespace."""
    return [] if namespace is None else ["ip", "netns", "exec", namespace]
