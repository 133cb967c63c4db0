"""A helper that runs, and processes without rights that ask it."""

import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bmi.boot.dnsmasq import Dnsmasq
from bmi.drivers import Site
from bmi.helper.client import Helper
from bmi.lab.service import toml
from bmi.wait import wait_until

USER = 61234
"""A user's number that nobody has."""

_DEADLINE = 30  # seconds


@dataclass
class RunningHelper:
    """`bmi helper`, as root's process, for one user without rights."""

    folder: Path
    leg: Mapping[str, str] = field(default_factory=dict)
    switches: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    user: int = USER
    process: subprocess.Popen[bytes] | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "socket"

    @property
    def log(self) -> Path:
        return self.folder / "helper.log"

    def site(self, mark: str) -> Site:
        """Return where it works for an installation."""
        return Site(self.folder / "helper" / mark, mark)

    def client(self, mark: str) -> Helper:
        return Helper(self.socket, mark)

    def start(self) -> None:
        self.folder.mkdir(mode=0o755, exist_ok=True)
        lines = [
            "[helper]",
            f"socket = {toml(str(self.socket))}",
            f"state_dir = {toml(str(self.folder / 'helper'))}",
            f'user = "{self.user}"',
            "[leg]",
            'driver = "ovs"',
            f"options = {toml(self.leg)}",
        ]
        for name, options in self.switches.items():
            lines += [f"[switches.{name}]", 'driver = "ovs"', f"options = {toml(options)}"]
        config = self.folder / "helper.toml"
        config.write_text("\n".join(lines) + "\n")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "bmi.cli", "helper", "--config", config], stdout=log, stderr=log
            )
        wait_until(self._ready, deadline=_DEADLINE, what="the helper", next_step=f"look at {self.log}")

    def stop(self, *, kill: bool = False) -> None:
        """End it; what it started goes on."""
        if self.process is not None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
            self.process.wait(_DEADLINE)
            self.process = None

    def end_servers(self) -> None:
        """End every dnsmasq that it started, and remove their files."""
        for folder in (self.folder / "helper").glob("*"):
            dnsmasq = Dnsmasq(Site(folder, folder.name))
            for network in dnsmasq.running():
                dnsmasq.stop(network)
            shutil.rmtree(Path("/run/bmi") / folder.name, ignore_errors=True)

    def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log.read_text()
        with socket.socket(socket.AF_UNIX) as asking:
            return asking.connect_ex(str(self.socket)) == 0


@contextmanager
def helping(
    folder: Path,
    *,
    leg: Mapping[str, str] | None = None,
    switches: Mapping[str, Mapping[str, str]] | None = None,
) -> Iterator[RunningHelper]:
    """Run a helper for as long as it is needed, and leave nothing behind of it."""
    helper = RunningHelper(folder, leg or {}, switches or {})
    helper.start()
    try:
        yield helper
    finally:
        helper.stop()
        helper.end_servers()


def without_rights(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function of a module in a process of a user who may do nothing, and return what it returns."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=_call, args=(theirs, function, arguments))
    child.start()
    theirs.close()
    try:
        assert ours.poll(120), "no answer"
        failed, result = ours.recv()
    finally:
        child.join(_DEADLINE)
        child.close()
    if failed:
        raise AssertionError(result)
    return result


def _call(answer: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    os.setgroups([])
    os.setresgid(USER, USER, USER)
    os.setresuid(USER, USER, USER)
    try:
        answer.send((False, function(*arguments)))
    except BaseException as error:
        answer.send((True, f"{type(error).__name__}: {error}"))
        raise
