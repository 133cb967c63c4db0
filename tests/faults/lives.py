"""Lives of a service, each in a process of its own, forked from one that has everything imported and no threads."""

import gc
import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LONGEST = 90.0  # seconds; what takes longer hangs


@dataclass(frozen=True)
class Life:
    """How a life ended."""

    told: dict[str, Any] | None
    """What it returned; none if it was killed."""
    killed: bool
    """Whether it died by SIGKILL, as a fault wants it."""
    trouble: str = ""
    """What went wrong with the laboratory itself."""


def live(act: Callable[[], dict[str, Any]], output: Path) -> Life:
    """Let a process do something, and say how that ended.

    Args:
        act: What it does, and tells.
        output: File that gets what it prints.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    told = output.with_suffix(".told")
    told.unlink(missing_ok=True)
    pid = os.fork()
    if pid == 0:
        _act(act, told, output)
    return _wait(pid, told, output)


def _act(act: Callable[[], dict[str, Any]], told: Path, output: Path) -> None:
    """Live in the child; it never returns, and closes nothing in good order."""
    status = 1
    gc.disable()  # it lives for a second or two, and would touch each page that it shares with its parent
    try:
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(file, 1)
        os.dup2(file, 2)
        told.write_text(json.dumps(act()))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, told: Path, output: Path) -> Life:
    handle = os.pidfd_open(pid)
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    late = not poll.poll(LONGEST * 1000)
    if late:
        os.kill(pid, signal.SIGABRT)  # faulthandler says where it was
        if not poll.poll(5000):
            os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(handle)
    if late:
        return Life(None, killed=False, trouble=f"did not end within {LONGEST:g} s, see {output}")
    if os.WIFSIGNALED(status):
        killed = os.WTERMSIG(status) == signal.SIGKILL
        return Life(None, killed, "" if killed else f"ended by signal {os.WTERMSIG(status)}, see {output}")
    if status:
        return Life(None, killed=False, trouble=_last_words(output))
    return Life(json.loads(told.read_text()), killed=False)


def _last_words(output: Path) -> str:
    lines = output.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "ended without a word"
