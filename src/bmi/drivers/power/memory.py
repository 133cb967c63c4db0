"""Power for tests: controllers that exist only as files."""

import fcntl
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.power import Bmc, BootDevice, Console, OpenConsole, PowerState
from bmi.errors import BmcRefused, BmcUnreachable, ConsoleLost, ConsoleUnavailable
from bmi.ids import new_id

_POLL = 0.02  # seconds between two looks at what a node says


class MemoryOptions(Options):
    """Options of the driver `memory`."""

    password: SecretStr | None = None
    """What every controller wants to hear; any password is right if None."""
    unreachable: frozenset[str] = frozenset()
    """Addresses at which nothing answers."""
    silent: frozenset[str] = frozenset()
    """Addresses of controllers that have no console."""


class MemoryPower:
    """Controllers that spring into being when somebody first talks to them, with their node switched off.

    A controller is a folder, and what it remembers is a file for each thing, so that two callers who change
    different things never meet.
    """

    def __init__(self, options: Mapping[str, Any], site: Site) -> None:
        self._options = parse_options(MemoryOptions, options, driver="memory")
        self._home = site.state_dir.absolute() / "power-memory"

    def state(self, bmc: Bmc) -> PowerState:
        """Read the power state."""
        return PowerState(_read(self._controller(bmc) / "power", PowerState.OFF))

    def on(self, bmc: Bmc) -> None:
        """Switch on."""
        _write(self._controller(bmc) / "power", PowerState.ON)

    def off(self, bmc: Bmc) -> None:
        """Switch off."""
        _write(self._controller(bmc) / "power", PowerState.OFF)

    def boot_from(self, bmc: Bmc, device: BootDevice) -> None:
        """Choose what the firmware starts from."""
        _write(self._controller(bmc) / "boot", device)

    def boots_from(self, bmc: Bmc) -> BootDevice | None:
        """Read what was chosen last; None if nothing was."""
        chosen = _read(self._controller(bmc) / "boot", "")
        return BootDevice(chosen) if chosen else None

    def reset_boot(self, bmc: Bmc) -> None:
        """Forget what was chosen, and empty the virtual drives."""
        for name in ("boot", "media"):
            (self._controller(bmc) / name).unlink(missing_ok=True)

    def insert(self, bmc: Bmc, image: str) -> None:
        """Put an image into the virtual drive, as somebody with root on the node may do."""
        _write(self._controller(bmc) / "media", image)

    def media(self, bmc: Bmc) -> Sequence[str]:
        """Name the images in the virtual drives."""
        return _read(self._controller(bmc) / "media", "").split()

    def console(self, bmc: Bmc) -> Console:
        """Open the node's serial line."""
        controller = self._controller(bmc)
        if bmc.address in self._options.silent:
            raise ConsoleUnavailable(
                f"BMC {bmc.address} has no console", next_step="take it out of the driver's option 'silent'"
            )
        return MemoryConsole(bmc.address, controller)

    def say(self, bmc: Bmc, text: bytes) -> None:
        """Let the node say something on its serial line."""
        _append(self._controller(bmc) / "said", text)

    def typed(self, bmc: Bmc) -> bytes:
        """Return everything that was ever typed on the node's serial line."""
        file = self._controller(bmc) / "typed"
        return file.read_bytes() if file.exists() else b""

    def hang_up(self, bmc: Bmc) -> None:
        """End the console's session, as a controller does that restarts."""
        _append(self._controller(bmc) / "hung-up", b".")

    def close(self) -> None:
        """Do nothing: there are no connections."""

    def _controller(self, bmc: Bmc) -> Path:
        if bmc.address in self._options.unreachable:
            raise BmcUnreachable(
                f"BMC {bmc.address} does not answer",
                next_step="take it out of the driver's option 'unreachable'",
            )
        password = self._options.password
        if password is not None and bmc.password != password.get_secret_value():
            raise BmcRefused(
                f"BMC {bmc.address} refuses user {bmc.username!r}",
                next_step="correct user name and password of the node's BMC",
            )
        return self._home / quote(bmc.address, safe="")


class MemoryConsole(OpenConsole):
    """A serial line that is two files: what the node says, and what was typed. One session at a time.

    Raises:
        ConsoleUnavailable: There is a session already.
    """

    def __init__(self, name: str, controller: Path) -> None:
        self._name = name
        self._typed, self._ends = controller / "typed", controller / "hung-up"
        for file in (controller / "said", self._typed, self._ends):
            _append(file, b"")
        self._said = (controller / "said").open("rb")
        try:
            fcntl.flock(self._said, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._said.close()
            raise ConsoleUnavailable(
                f"another client has the console of BMC {name}", next_step="end that session"
            ) from error
        self._said.seek(0, os.SEEK_END)  # as a real one, it tells what is said from now on
        self._age = self._ends.stat().st_size

    def read(self, timeout: float) -> bytes:
        """Return what the node said, as it comes; nothing if it said nothing in this time."""
        end = time.monotonic() + timeout
        while True:
            self._require_open()
            if said := self._said.read():
                return said
            if time.monotonic() >= end:
                return b""
            time.sleep(min(_POLL, timeout))

    def write(self, data: bytes) -> None:
        """Type something."""
        self._require_open()
        _append(self._typed, data)

    def close(self) -> None:
        """End the session."""
        self._said.close()

    def _require_open(self) -> None:
        if self._said.closed or self._ends.stat().st_size != self._age:
            raise ConsoleLost(f"the console of BMC {self._name} has ended", next_step="open it again")


def _append(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(content)


def _read(path: Path, default: str) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return default


def _write(path: Path, value: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{new_id().hex}")
    part.write_text(value)
    part.replace(path)
