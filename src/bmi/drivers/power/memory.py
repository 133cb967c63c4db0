"""Power for tests: controllers that exist only as files."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import SecretStr

from bmi.drivers import Options, Site, parse_options
from bmi.drivers.power import Bmc, BootDevice, PowerState
from bmi.errors import BmcRefused, BmcUnreachable
from bmi.ids import new_id


class MemoryOptions(Options):
    """Options of the driver `memory`."""

    password: SecretStr | None = None
    """What every controller wants to hear; any password is right if None."""
    unreachable: frozenset[str] = frozenset()
    """Addresses at which nothing answers."""


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
