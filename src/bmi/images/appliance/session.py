"""Asks the program in the sandbox to do one thing to one volume."""

import contextlib
import fcntl
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bmi.drivers.storage import Backing
from bmi.errors import ApplianceFailed, ApplianceUnavailable, CommandTimedOut, ImageInvalid
from bmi.images.appliance import sandbox
from bmi.images.appliance.built import built
from bmi.images.appliance.disk import served

log = logging.getLogger(__name__)

Tell = Callable[[str, float], None]
"""Told what is going on, and the fraction of the work that is done. What it raises ends the work."""

_TICK = 0.5  # seconds between two calls of `tell`
_LONGEST_ANSWER = 16 << 20  # bytes of all that the program says
_COMPLAINTS = 1500  # characters of its error output that are worth a reader's time
_TEMPORARY = "bmi-appliance-"


@dataclass(frozen=True)
class Appliance:
    """A small virtual machine that looks into disks."""

    cache: Path
    """Folder that keeps it."""
    enabled: bool = True
    memory: int = 1024
    """MiB."""
    deadline: float = 1800.0
    """Seconds for one disk."""
    kvm: bool = False
    """Whether to use the processor's virtualization; else QEMU translates, which is some five times slower."""

    def ask(
        self,
        backing: Backing,
        verb: str,
        request: Mapping[str, Any],
        *,
        tell: Tell,
        writable: bool = False,
        files: Path | None = None,
    ) -> dict[str, Any]:
        """Do one thing to one volume.

        Args:
            backing: The volume; nobody else writes to it meanwhile.
            verb: One of the program's verbs.
            request: What it needs to know.
            tell: Told how far it is, twice a second.
            writable: Whether it may write; else what it writes is thrown away.
            files: Folder of files that it may read.

        Raises:
            ApplianceUnavailable: It is switched off, or a package is missing.
            ApplianceFailed: It could not do it.
            ImageInvalid: The volume is not of a kind that this can be done to.
            CommandTimedOut: It did not end in time and was killed.
        """
        if not self.enabled:
            raise ApplianceUnavailable(
                "images cannot be looked into: the appliance is switched off",
                next_step="switch it on in the settings: enabled in [appliance]",
            )
        tell("getting the appliance ready", 0.0)
        appliance = built(self.cache)
        end = time.monotonic() + self.deadline
        with temporary_folder() as folder, served(backing, folder, writable=writable) as socket:
            words = sandbox.words(
                appliance=appliance, socket=socket, memory=self.memory, kvm=self.kvm, files=files
            )
            asked = {"verb": verb, "request": request, "writable": writable}
            machine = {"memory": self.memory, "kvm": self.kvm, "processors": 1}
            return _Program(words, folder / "stderr", end, tell).ask({**asked, **machine})


class _Program:
    """One run of the program in the sandbox."""

    def __init__(self, words: list[str], complaints: Path, end: float, tell: Tell) -> None:
        self._words, self._complaints, self._end, self._tell = words, complaints, end, tell
        self._doing, self._fraction = "starting the appliance", 0.0

    def ask(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        with self._complaints.open("wb") as complaints:
            child = subprocess.Popen(
                self._words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                start_new_session=True,
                env={
                    "PATH": os.environ.get("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
                },  # no secret of the service
            )
        assert child.stdin is not None and child.stdout is not None  # noqa: S101, PT018 - asked for
        try:
            with contextlib.suppress(BrokenPipeError), child.stdin:
                child.stdin.write(json.dumps(asked).encode() + b"\n")
            with child.stdout:
                return self._answer(child.stdout.fileno())
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()

    def _answer(self, output: int) -> dict[str, Any]:
        for line in self._lines(output):
            try:
                message = json.loads(line)
            except ValueError:
                continue
            if "result" in message:
                return dict(message["result"])
            if "refused" in message:
                raise ImageInvalid(str(message["refused"]), next_step=str(message["next_step"]))
            if "error" in message:
                raise ApplianceFailed(
                    f"the appliance failed while {self._doing}: {message['error']}",
                    next_step="check that the image is whole, and try again",
                )
            self._doing, self._fraction = str(message["doing"]), float(message["fraction"])
            self._tell(self._doing, self._fraction)
        said = self._complaints.read_text(errors="replace").strip()[-_COMPLAINTS:]
        raise ApplianceFailed(
            f"the appliance ended while {self._doing}: {said or 'without a word'}",
            next_step="check the host's memory, and try again",
        )

    def _lines(self, output: int) -> Iterator[bytes]:
        rest, heard = b"", 0
        while heard < _LONGEST_ANSWER:
            ready, _, _ = select.select([output], [], [], _TICK)
            if time.monotonic() > self._end:
                raise CommandTimedOut(
                    f"the appliance did not end in time, while {self._doing}, and was killed",
                    next_step="try again, or allow it more time: seconds in [appliance] of the settings",
                )
            self._tell(self._doing, self._fraction)
            if not ready:
                continue
            chunk = os.read(output, 1 << 16)
            heard += len(chunk)
            *complete, rest = (rest + chunk).split(b"\n")
            yield from complete
            if not chunk:
                return


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Make a folder with a short path, as sockets need it; what killed processes left goes first."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_TEMPORARY))
    try:
        folder.chmod(0o711)  # the sandbox has no rights of its own, and has to find the socket
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*"):
        try:
            with (folder / "lock").open("r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # somebody works in it, or it is just being made
