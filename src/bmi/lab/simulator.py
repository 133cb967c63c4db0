"""Simulators that the lab starts: programs that listen on a UDP port of the loopback interface."""

from pathlib import Path

from bmi.errors import CommandFailed
from bmi.processes import Process
from bmi.run import run
from bmi.wait import wait_until

_START = 20.0  # seconds; they listen after some milliseconds


def await_listening(process: Process, name: str, port: int, log: Path) -> None:
    """Wait until a simulator that was just started listens.

    Args:
        process: The simulator.
        name: What it is called.
        port: The UDP port that it is to listen on.
        log: Where it says what is wrong.

    Raises:
        CommandFailed: It ended.
        DeadlineExceeded: It does not listen.
    """
    process.on_exit(lambda: None)  # reaps it
    wait_until(
        lambda: bool(run(["ss", "-Hlun", f"sport = :{port}"]).strip()) or not process.alive(),
        deadline=_START,
        what=f"{name} to listen",
        next_step=f"look at {log}",
    )
    if not process.alive():
        raise CommandFailed(
            f"{name} ended at once: {log.read_text(errors='replace')[-500:]}",
            next_step="mend what it complains about",
        )
